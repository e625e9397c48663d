"""Remedies: changes of the paper's step that make it dependable.

Each remedy is a function of its settings that returns a `types.Remedy`. Its
first setting has no default and is its strength: a config that sets it to 0
leaves the remedy out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from icm_jax import types
from icm_jax.competition.remedies.averaging import averages
from icm_jax.competition.remedies.balancing import balance
from icm_jax.competition.remedies.changing import change
from icm_jax.competition.remedies.content import identity
from icm_jax.competition.remedies.contrasting import contrast
from icm_jax.competition.remedies.placing import places
from icm_jax.competition.remedies.refereeing import referee
from icm_jax.competition.remedies.relocating import relocation
from icm_jax.competition.remedies.signatures import signature
from icm_jax.competition.remedies.smoothness import r1
from icm_jax.competition.remedies.weighting import winner_weight

__all__ = (
  "REMEDIES",
  "averages",
  "balance",
  "change",
  "contrast",
  "from_sections",
  "identity",
  "places",
  "r1",
  "referee",
  "relocation",
  "sections",
  "signature",
  "winner_weight",
)

# The step uses remedies in this order, which matters twice: merits are summed
# in it, so that rounding always decides near ties in the same way; and
# relocation comes last, because it copies the memory of the others.
REMEDIES: dict[str, Callable[..., types.Remedy]] = {
  "signature": signature,
  "places": places,
  "referee": referee,
  "balance": balance,
  "winner_weight": winner_weight,
  "r1": r1,
  "contrast": contrast,
  "identity": identity,
  "change": change,
  "averages": averages,
  "relocation": relocation,
}


def sections() -> dict[str, dict[str, Any]]:
  """Returns the settings of all remedies as a config has them, by remedy.

  Every first setting is 0, so that all remedies are left out. Keyword-only
  arguments are not part of a config: the program chooses them.
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
  """Makes the remedies that a config asks for, in the order of `REMEDIES`.

  Args:
    chosen: settings by remedy, as `sections` returns them. If the first setting
      of a remedy is 0, its other settings are not checked.

  Raises:
    InputError: a remedy is unknown, or a setting is out of its range.
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
  """Returns the arguments of a remedy that a config sets."""
  return [
    parameter
    for parameter in inspect.signature(remedy).parameters.values()
    if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
  ]
