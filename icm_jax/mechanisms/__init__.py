"""What distorts an image: pure functions `(key, x_HWC) -> x_HWC` by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from icm_jax import types
from icm_jax.mechanisms import digits
from icm_jax.mechanisms.mixture import Mechanism, apply_each, apply_mixture

__all__ = (
  "MECHANISMS",
  "PRESETS",
  "Mechanism",
  "apply_each",
  "apply_mixture",
  "by_names",
  "displacement",
)

MECHANISMS: dict[str, Mechanism] = {
  "up": functools.partial(digits.shift, up=1),
  "up_right": functools.partial(digits.shift, up=1, right=1),
  "right": functools.partial(digits.shift, right=1),
  "down_right": functools.partial(digits.shift, up=-1, right=1),
  "down": functools.partial(digits.shift, up=-1),
  "down_left": functools.partial(digits.shift, up=-1, right=-1),
  "left": functools.partial(digits.shift, right=-1),
  "up_left": functools.partial(digits.shift, up=1, right=-1),
  "noise": digits.noise,
  "invert": digits.invert,
}

# Problems by name: which mechanisms, and the parameters of each family.
PRESETS: dict[str, dict[str, Any]] = {
  "paper": dict(
    names=tuple(MECHANISMS),
    shift=dict(pixels=4, background=0.0),
    noise=dict(stddev=0.5),
  ),
  "three": dict(
    names=("right", "down", "invert"),
    shift=dict(pixels=5, background=0.0),
    noise=dict(stddev=0.5),
  ),
}


def by_names(
  names: Sequence[str], parameters: Mapping[str, Mapping[str, Any]]
) -> tuple[Mechanism, ...]:
  """Looks mechanisms up and sets their parameters.

  Args:
    names: keys of `MECHANISMS`, each at most once.
    parameters: keyword arguments by family, the name of the function behind a
      mechanism: `{"shift": {"pixels": 5}}` sets all eight shifts.

  Returns:
    The mechanisms, in the order of `names`.

  Raises:
    InputError: no name, an unknown or repeated one, or an unknown family.
  """
  unknown = [name for name in names if name not in MECHANISMS]
  if unknown or not names or len(set(names)) < len(names):
    raise types.InputError(
      f"Mechanisms must be one or more different names out of "
      f"{', '.join(MECHANISMS)}; got {', '.join(map(repr, names)) or 'none'}."
    )
  families = {_family(mechanism) for mechanism in MECHANISMS.values()}
  for family in parameters:
    if family not in families:
      raise types.InputError(
        f"Unknown mechanism family {family!r}; known: "
        f"{', '.join(sorted(families))}."
      )
  return tuple(
    functools.partial(
      MECHANISMS[name], **parameters.get(_family(MECHANISMS[name]), {})
    )
    for name in names
  )


def displacement(mechanism: Mechanism) -> tuple[int, int]:
  """By how many pixels it moves an image up and to the right.

  Args:
    mechanism: of `by_names`, with the parameters that were set.
  """
  if _family(mechanism) != "shift":
    return 0, 0
  default = inspect.signature(digits.shift).parameters["pixels"].default
  pixels = mechanism.keywords.get("pixels", default)
  up, right = (mechanism.keywords.get(axis, 0) for axis in ("up", "right"))
  return up * pixels, right * pixels


def _family(mechanism: Mechanism) -> str:
  return getattr(mechanism, "func", mechanism).__name__
