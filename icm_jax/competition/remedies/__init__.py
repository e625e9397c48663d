"""Remedies: changes of the paper's step that make it dependable.

Each is a function of its settings that returns a `types.Remedy`. The first
setting has no default: it says how strong the remedy is, and a config that has
0 there leaves the remedy out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from icm_jax import types
from icm_jax.competition.remedies.averaging import averages
from icm_jax.competition.remedies.balancing import balance
from icm_jax.competition.remedies.content import identity
from icm_jax.competition.remedies.relocating import relocation
from icm_jax.competition.remedies.signatures import signature
from icm_jax.competition.remedies.smoothness import r1
from icm_jax.competition.remedies.weighting import winner_weight

__all__ = (
  "REMEDIES",
  "averages",
  "balance",
  "from_sections",
  "identity",
  "r1",
  "relocation",
  "sections",
  "signature",
  "winner_weight",
)

# In the order in which the step uses them. It matters twice: merits are summed
# in this order, so that rounding decides near ties always alike; and relocation
# is the last, for it copies what the others remember.
REMEDIES: dict[str, Callable[..., types.Remedy]] = {
  "signature": signature,
  "balance": balance,
  "winner_weight": winner_weight,
  "r1": r1,
  "identity": identity,
  "averages": averages,
  "relocation": relocation,
}


def sections() -> dict[str, dict[str, Any]]:
  """Settings of all remedies as a config holds them, every remedy left out.

  Keyword-only arguments are no settings of a config: a program chooses them.
  """
  off = {"int": 0, "float": 0.0}
  return {
    name: {
      setting.name: off[setting.annotation]
      if setting.default is inspect.Parameter.empty
      else setting.default
      for setting in _settings(remedy)
    }
    for name, remedy in REMEDIES.items()
  }


def from_sections(
  chosen: Mapping[str, Mapping[str, Any]],
) -> tuple[types.Remedy, ...]:
  """The remedies that a config asks for, in their order.

  Args:
    chosen: settings by remedy, as of `sections`; of a remedy that is left out,
      nothing is checked but the first setting.

  Raises:
    InputError: a remedy or a setting is unknown, or out of its range.
  """
  if unknown := sorted(set(chosen) - set(REMEDIES)):
    raise types.InputError(
      f"Unknown remedies {', '.join(unknown)}; known: {', '.join(REMEDIES)}."
    )
  built = []
  for name, remedy in REMEDIES.items():
    if name not in chosen:
      continue
    known = list(inspect.signature(remedy).parameters)
    first = known[0]
    if first not in chosen[name] or set(chosen[name]) - set(known):
      raise types.InputError(
        f"The remedy {name} needs the setting {first}, and may have "
        f"{', '.join(known)}; got {', '.join(chosen[name]) or 'none'}."
      )
    if chosen[name][first] != 0:
      built.append(remedy(**chosen[name]))
  return tuple(built)


def _settings(remedy: Callable[..., Any]) -> list[inspect.Parameter]:
  """Arguments of a remedy that are settings of a config."""
  return [
    parameter
    for parameter in inspect.signature(remedy).parameters.values()
    if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
  ]
