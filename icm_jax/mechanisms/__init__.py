"""Mechanisms that distort images: pure functions `(key, x_HWC) -> x_HWC`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icm_jax import types
from icm_jax.mechanisms import corruptions, digits, faces
from icm_jax.mechanisms.faces import GEOMETRIES, alignment
from icm_jax.mechanisms.mixture import Mechanism, apply_each, apply_mixture

__all__ = (
  "GEOMETRIES",
  "MECHANISMS",
  "PRESETS",
  "Mechanism",
  "alignment",
  "apply_each",
  "apply_mixture",
  "by_names",
  "covered",
  "displacement",
  "family",
  "parameters_of",
  "weakened",
)

_DIGITS: dict[str, Mechanism] = {
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
MECHANISMS: dict[str, Mechanism] = {
  **_DIGITS,
  "low_light": faces.low_light,
  "backlight": faces.backlight,
  "colour_cast": faces.colour_cast,
  "defocus": faces.defocus,
  "motion_blur": faces.motion_blur,
  "pixelate": faces.pixelate,
  "dark_glasses": faces.dark_glasses,
  "face_mask": faces.face_mask,
  "hat_band": faces.hat_band,
  "hand": faces.hand,
  **{n: getattr(corruptions, n) for n in corruptions.BENCHMARK.values()},
}

# Named problems: the mechanisms and the parameters of each family.
PRESETS: dict[str, dict[str, Any]] = {
  "paper": dict(
    names=tuple(_DIGITS),
    shift=dict(pixels=4, background=0.0),
    noise=dict(stddev=0.5),
  ),
  "three": dict(
    names=("right", "down", "invert"),
    shift=dict(pixels=5, background=0.0),
    noise=dict(stddev=0.5),
  ),
  # Aligned RGB faces. A face detector finds few of them in such noise, blocks
  # or low light, half of them behind a hand, and nearly all behind glasses or a
  # mask, or in coloured light (docs/faces.md).
  "faces": dict(
    names=(
      "noise",
      "invert",
      "low_light",
      "colour_cast",
      "hand",
      "face_mask",
      "dark_glasses",
      "pixelate",
    ),
    noise=dict(stddev=0.25),
    low_light=dict(light=0.12, stddev=0.03),
    colour_cast=dict(gains=(0.3, 0.6, 1.2)),
    hand=dict(geometry="celeb_a", level=0.6),
    face_mask=dict(geometry="celeb_a", level=0.95),
    dark_glasses=dict(geometry="celeb_a", level=0.05),
    pixelate=dict(blocks=16),
  ),
  # Grey faces of 32 pixels: mechanisms that experts can separate and undo after
  # training on few images.
  "faces_grey": dict(
    names=(
      "noise",
      "invert",
      "low_light",
      "right",
      "dark_glasses",
      "face_mask",
    ),
    noise=dict(stddev=0.2),
    low_light=dict(light=0.2, stddev=0.02),
    shift=dict(pixels=6, background=0.5),
    dark_glasses=dict(geometry="orl_faces", level=0.05),
    face_mask=dict(geometry="orl_faces", level=0.95),
  ),
  # The benchmark MNIST-C; each function has the benchmark's parameters.
  "mnist_c": dict(names=tuple(corruptions.BENCHMARK.values())),
}


# Least and largest values of parameters by their names, in any family.
_RANGES: dict[str, tuple[float, float]] = {
  "amount": (0, 1),
  "amplitude": (0, math.inf),
  "background": (0, 1),
  "blocks": (1, math.inf),
  "counts": (1, math.inf),
  "decay": (1, math.inf),
  "degrees": (0, 180),
  "density": (0, math.inf),
  "factor": (0.01, math.inf),
  "glare": (0, math.inf),
  "high": (0, math.inf),
  "level": (0, 1),
  "light": (0, math.inf),
  "low": (0, math.inf),
  "path": (0, math.inf),
  "period": (1, math.inf),
  "pixels": (0, math.inf),
  "radians": (0, math.pi),
  "radius": (0, math.inf),
  "rounds": (0, math.inf),
  "shade": (0, math.inf),
  "sigma": (0, math.inf),
  "softness": (0, math.inf),
  "stddev": (0, math.inf),
}


def by_names(
  names: Sequence[str], parameters: Mapping[str, Mapping[str, Any]]
) -> tuple[Mechanism, ...]:
  """Looks up mechanisms and sets their parameters.

  Args:
    names: keys of `MECHANISMS`, each at most once.
    parameters: keyword arguments by family. A family is the name of the
      function behind a mechanism: `{"shift": {"pixels": 5}}` sets all eight
      shifts.

  Returns:
    The mechanisms, in the order of `names`.

  Raises:
    InputError: there is no name, a name is unknown or repeated, or a family or
      one of its parameters is unknown or out of its range.
  """
  unknown = [name for name in names if name not in MECHANISMS]
  if unknown or not names or len(set(names)) < len(names):
    raise types.InputError(
      f"Mechanisms must be one or more different names out of "
      f"{', '.join(MECHANISMS)}; got {', '.join(map(repr, names)) or 'none'}."
    )
  families = {family(mechanism) for mechanism in MECHANISMS.values()}
  for name in parameters:
    if name not in families:
      raise types.InputError(
        f"Unknown mechanism family {name!r}; known: "
        f"{', '.join(sorted(families))}."
      )
  for mechanism in MECHANISMS.values():
    _check_parameters(mechanism, parameters.get(family(mechanism), {}))
  return tuple(
    functools.partial(
      MECHANISMS[name], **parameters.get(family(MECHANISMS[name]), {})
    )
    for name in names
  )


def _check_parameters(
  mechanism: Mechanism, parameters: Mapping[str, Any]
) -> None:
  """Checks the parameters that a user chose for a mechanism's family.

  Raises:
    InputError: one is unknown, or out of its range.
  """
  name, known = family(mechanism), parameters_of(mechanism)
  for key, value in parameters.items():
    if key not in known:
      raise types.InputError(
        f"The mechanism {name} has no parameter {key!r}; known: "
        f"{', '.join(known) or 'none'}."
      )
    if key not in _RANGES:
      continue
    least, most = _RANGES[key]
    kinds = (int,) if isinstance(known[key], int) else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
      bounds = f"at least {least}"
      if most < math.inf:
        bounds = f"in [{least}, {most}]"
      raise types.InputError(
        f"--config.mechanisms.{name}.{key} must be "
        f"{'a whole number, ' if kinds == (int,) else ''}{bounds}; got "
        f"{value!r}."
      )


def check_fit(mechanism: Mechanism, shape_HWC: tuple[int, int, int]) -> None:
  """Checks that a mechanism leaves something of images of a shape.

  Raises:
    InputError: it moves the images out of their frames.
  """
  moved = max(map(abs, displacement(mechanism)))
  if moved >= min(shape_HWC[:2]):
    raise types.InputError(
      f"--config.mechanisms.shift.pixels must be below {min(shape_HWC[:2])}, "
      f"the size of the images; got {moved}."
    )


def displacement(mechanism: Mechanism) -> tuple[int, int]:
  """Number of pixels by which a mechanism moves an image up and to the right.

  Args:
    mechanism: one of `by_names`, with its parameters set.
  """
  if family(mechanism) != "shift":
    return 0, 0
  chosen = parameters_of(mechanism)
  return tuple(chosen[axis] * chosen["pixels"] for axis in ("up", "right"))


def covered(
  mechanism: Mechanism, shape_HW: tuple[int, int]
) -> np.ndarray | None:
  """Pixels that a mechanism hides behind an object.

  Args:
    mechanism: one of `by_names`, with its parameters set.
    shape_HW: height and width of the image.

  Returns:
    [H, W] bool; None if the mechanism hides nothing.
  """
  chosen = parameters_of(mechanism)
  if "geometry" not in chosen:
    return None
  return faces.covered(family(mechanism), shape_HW, geometry=chosen["geometry"])


def weakened(mechanism: Mechanism, strength: float) -> Mechanism:
  """A mechanism that does only a part of what it did.

  A shift is shortened, to whole pixels. Of any other mechanism, the change that
  it makes to an image is scaled: `x + strength * (mechanism(x) - x)`.

  Args:
    mechanism: one of `by_names`, with its parameters set.
    strength: in [0, 1]; 1 is the mechanism itself, 0 the identity.

  Raises:
    InputError: the strength is out of its range.
  """
  if not 0 <= strength <= 1:
    raise types.InputError(
      f"The strength of a mechanism must be in [0, 1]; got {strength}."
    )
  # Half of a shift is no average of two images, which would show both.
  if any(displacement(mechanism)):
    shorter = {"pixels": round(strength * parameters_of(mechanism)["pixels"])}
    return functools.partial(mechanism, **shorter)

  def weak(key, x_HWC):
    return x_HWC + strength * (mechanism(key, x_HWC) - x_HWC)

  return weak


def family(mechanism: Mechanism) -> str:
  """Name of the function behind a mechanism."""
  return getattr(mechanism, "func", mechanism).__name__


def parameters_of(mechanism: Mechanism) -> dict[str, Any]:
  """All parameters of a mechanism by name, defaults included."""
  signature = inspect.signature(mechanism).parameters.values()
  return {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
