"""Mechanisms for faces: light, colour, blur, and things in front of a face.

A mechanism is a pure function `(key, x_HWC) -> x_HWC` on float32 images in
[0, 1] with 1 or 3 channels; the shape is kept and the key is consumed, if it is
used at all. Lengths are fractions of an image's side, so that the same numbers
suit images of any size.

Blurs are products with small constant matrices, one for each axis: inside of a
training step that is faster than a convolution for each image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import types


class Geometry(NamedTuple):
  """Where an aligned face lies, in fractions of the image's height and width.

  Attributes:
    middle: of the face, from the left.
    eyes: their height, from the top.
    eye_distance: between the middles of the eyes.
    nose: height of its tip, from the top.
    mouth: its height, from the top.
  """

  middle: float
  eyes: float
  eye_distance: float
  nose: float
  mouth: float


# By data set, as its own view shows it: medians over 200 images (of ffhq 17, of
# yale_faces 165), of the landmarks that CenterFace finds
# (`evaluation.detection`). Standard deviations of the eyes' height are about
# 0.015, but 0.04 in yale_faces and 0.07 in orl_faces, which are not aligned.
GEOMETRIES = {
  "celeb_a": Geometry(0.50, 0.53, 0.26, 0.68, 0.79),
  "ffhq": Geometry(0.50, 0.47, 0.25, 0.61, 0.73),
  "lfw": Geometry(0.50, 0.42, 0.28, 0.58, 0.72),
  "orl_faces": Geometry(0.50, 0.48, 0.37, 0.69, 0.82),
  "utkface": Geometry(0.49, 0.305, 0.40, 0.51, 0.69),
  "yale_faces": Geometry(0.56, 0.51, 0.22, 0.64, 0.74),
}


def alignment(
  geometry: Geometry, target: Geometry
) -> tuple[float, float, float]:
  """Where to cut an image so that its eyes come to lie where others' do.

  Returns:
    Left edge, upper edge and side of a square, in fractions of the image's
    side; it may reach beyond the image.
  """
  side = geometry.eye_distance / target.eye_distance
  left = geometry.middle - target.middle * side
  return left, geometry.eyes - target.eyes * side, side


def low_light(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  light: float = 0.06,
  stddev: float = 0.02,
) -> jax.Array:
  """Little light on a sensor that adds noise.

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    light: what is left of the light, in [0, 1].
    stddev: of the sensor's noise, in units of the pixel range.

  Returns:
    float32 in [0, 1], same shape.
  """
  noise_HWC = stddev * jax.random.normal(key, x_HWC.shape)
  return jnp.clip(light * x_HWC + noise_HWC, 0.0, 1.0)


def backlight(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  shade: float = 0.02,
  glare: float = 0.5,
  stddev: float = 0.03,
) -> jax.Array:
  """Light from one side, and next to none on the other.

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    shade: factor of the light at the left edge, above 0.
    glare: the same at the right edge; between them, equal ratios.
    stddev: of the sensor's noise, in units of the pixel range.

  Returns:
    float32 in [0, 1], same shape.
  """
  ramp_W = np.geomspace(shade, glare, x_HWC.shape[1], dtype=np.float32)
  noise_HWC = stddev * jax.random.normal(key, x_HWC.shape)
  return jnp.clip(x_HWC * ramp_W[None, :, None] + noise_HWC, 0.0, 1.0)


def colour_cast(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  gains: Sequence[float] = (0.3, 0.6, 1.2),
) -> jax.Array:
  """Coloured light.

  Args:
    key: not used: the light is always the same.
    x_HWC: float32 in [0, 1], RGB.
    gains: factors of red, green and blue, at least 0.

  Returns:
    float32 in [0, 1], same shape.

  Raises:
    InputError: images are grey.
  """
  del key
  if x_HWC.shape[-1] != len(gains):
    raise types.InputError(
      f"colour_cast needs images of {len(gains)} channels; these have "
      f"{x_HWC.shape[-1]}. Leave it out of --config.mechanisms.names, or set "
      "--config.data.channels=3."
    )
  gain_C = np.asarray(gains, np.float32)
  return jnp.clip(x_HWC * gain_C[None, None], 0.0, 1.0)


def defocus(
  key: jax.Array, x_HWC: jax.Array, *, sigma: float = 0.07
) -> jax.Array:
  """Gaussian blur; what lies outside of the image has no weight.

  Args:
    key: not used: the blur is always the same.
    x_HWC: float32 in [0, 1].
    sigma: standard deviation along either axis, a fraction of its length;
      above 0.

  Returns:
    float32 in [0, 1], same shape.
  """
  del key

  def weights(length):
    distance = _between_pixels(length) / (sigma * length)
    return np.exp(-0.5 * distance**2)

  return _mix(x_HWC, weights, weights)


def motion_blur(
  key: jax.Array, x_HWC: jax.Array, *, path: float = 0.3
) -> jax.Array:
  """Blur of a camera that moves to the side, evenly.

  Args:
    key: not used: the motion is always the same.
    x_HWC: float32 in [0, 1].
    path: its length, a fraction of the image's width.

  Returns:
    float32 in [0, 1], same shape.
  """
  del key

  def weights(length):
    # Pixels at the ends of the path count as far as it covers them.
    reach = path * length / 2 + 0.5
    return np.clip(reach - np.abs(_between_pixels(length)), 0.0, 1.0)

  return _mix(x_HWC, np.eye, weights)


def pixelate(
  key: jax.Array, x_HWC: jax.Array, *, blocks: int = 10
) -> jax.Array:
  """Means of blocks, as where a face is hidden on purpose.

  Args:
    key: not used: the blocks are always the same.
    x_HWC: float32 in [0, 1].
    blocks: how many along either axis; no more than its pixels count.

  Returns:
    float32 in [0, 1], same shape.
  """
  del key

  def weights(length):
    block = np.arange(length) * min(blocks, length) // length
    return block[:, None] == block

  return _mix(x_HWC, weights, weights)


def dark_glasses(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  geometry: str = "celeb_a",
  level: float = 0.05,
) -> jax.Array:
  """Two dark glasses and the bridge between them.

  Args:
    key: not used: the place is always the same, as for all coverings below.
    x_HWC: float32 in [0, 1].
    geometry: of the face; a key of `GEOMETRIES`.
    level: of the covered pixels, in [0, 1].

  Returns:
    float32 in [0, 1], same shape.

  Raises:
    InputError: an unknown geometry.
  """
  del key
  return _cover(x_HWC, "dark_glasses", geometry, level)


def face_mask(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  geometry: str = "celeb_a",
  level: float = 0.85,
) -> jax.Array:
  """A light mask over nose and mouth; as `dark_glasses`."""
  del key
  return _cover(x_HWC, "face_mask", geometry, level)


def hat_band(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  geometry: str = "celeb_a",
  level: float = 0.1,
) -> jax.Array:
  """A dark hat, down to the eyebrows; as `dark_glasses`."""
  del key
  return _cover(x_HWC, "hat_band", geometry, level)


def hand(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  geometry: str = "celeb_a",
  level: float = 0.6,
) -> jax.Array:
  """Something of a hand's size and shade in front; as `dark_glasses`."""
  del key
  return _cover(x_HWC, "hand", geometry, level)


def covered(
  name: str, shape_HW: tuple[int, int], *, geometry: str
) -> np.ndarray:
  """Which pixels a covering hides.

  Args:
    name: `dark_glasses`, `face_mask`, `hat_band` or `hand`.
    shape_HW: of the image.
    geometry: of the face; a key of `GEOMETRIES`.

  Returns:
    [H, W] bool.

  Raises:
    InputError: an unknown geometry.
  """
  if geometry not in GEOMETRIES:
    raise types.InputError(
      f"Unknown geometry {geometry!r} of faces; known: {', '.join(GEOMETRIES)}."
    )
  face = GEOMETRIES[geometry]
  y_H, x_W = ((np.arange(length) + 0.5) / length for length in shape_HW)
  # From the middle between the eyes, in eye distances; v points down.
  u_HW, v_HW = np.meshgrid(
    (x_W - face.middle) / face.eye_distance,
    (y_H - face.eyes) / face.eye_distance,
  )
  return _AREAS[name](u_HW, v_HW, face)


def _dark_glasses_area(u_HW, v_HW, face):
  del face
  glasses_HW = ((np.abs(u_HW) - 0.5) / 0.42) ** 2 + (v_HW / 0.32) ** 2 <= 1
  return glasses_HW | (np.abs(u_HW) <= 1) & (np.abs(v_HW + 0.1) <= 0.08)


def _face_mask_area(u_HW, v_HW, face):
  """A rounded square from the nose to the chin."""
  top = (face.nose - face.eyes) / face.eye_distance - 0.15
  bottom = (face.mouth - face.eyes) / face.eye_distance + 0.55
  middle, half = (top + bottom) / 2, (bottom - top) / 2
  return (u_HW / 0.85) ** 4 + ((v_HW - middle) / half) ** 4 <= 1


def _hat_band_area(u_HW, v_HW, face):
  """All above the eyebrows."""
  del u_HW, face
  return v_HW <= -0.35


def _hand_area(u_HW, v_HW, face):
  """A slanted ellipse over the eyes, the nose and a cheek."""
  del face
  across_HW = (u_HW - 0.2 + v_HW - 0.4) / math.sqrt(2)
  along_HW = (u_HW - 0.2 - v_HW + 0.4) / math.sqrt(2)
  return (across_HW / 0.95) ** 2 + (along_HW / 1.35) ** 2 <= 1


_AREAS = {
  "dark_glasses": _dark_glasses_area,
  "face_mask": _face_mask_area,
  "hat_band": _hat_band_area,
  "hand": _hand_area,
}


def _cover(x_HWC, name, geometry, level):
  hidden_HW = covered(name, x_HWC.shape[:2], geometry=geometry)
  return jnp.where(hidden_HW[..., None], level, x_HWC)


def _between_pixels(length: int) -> np.ndarray:
  """Distances of all pixels of a row from one another, in pixels."""
  position = np.arange(length)
  return position[:, None] - position


def _mix(x_HWC, rows, columns):
  """Weighted means along both axes.

  Args:
    x_HWC: float32.
    rows: from the height to weights [H, H], not normalised.
    columns: from the width to weights [W, W].
  """
  rows_HH, columns_WW = (
    weights / weights.sum(axis=1, keepdims=True)
    for weights in (rows(x_HWC.shape[0]), columns(x_HWC.shape[1]))
  )
  y_HWC = jnp.einsum(
    "ih,jw,hwc->ijc",
    rows_HH.astype(np.float32),
    columns_WW.astype(np.float32),
    x_HWC,
  )
  # Rounding may lead out of the range.
  return jnp.clip(y_HWC, 0.0, 1.0)
