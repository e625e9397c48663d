"""Mechanisms for faces: light, colour, blur, and objects in front of a face.

A mechanism is a pure function `(key, x_HWC) -> x_HWC` on float32 images in
[0, 1] with 1 or 3 channels. It keeps the shape, and consumes the key if it uses
it at all. Lengths are fractions of an image's side, so that the same numbers
suit images of any size.

Blurs are products with small constant matrices, one for each axis: inside a
training step these are faster than a convolution for each image.
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
  """Position of an aligned face, in fractions of the image's height and width.

  Attributes:
    middle: horizontal position of the face's middle, from the left.
    eyes: vertical position of the eyes, from the top.
    eye_distance: distance between the middles of the eyes.
    nose: vertical position of the tip of the nose, from the top.
    mouth: vertical position of the mouth, from the top.
  """

  middle: float
  eyes: float
  eye_distance: float
  nose: float
  mouth: float

  def zoomed(self, factor: float) -> Geometry:
    """The same face in a centred square of 1 / `factor` of the side."""
    middle, eyes, nose, mouth = (
      0.5 + factor * (position - 0.5)
      for position in (self.middle, self.eyes, self.nose, self.mouth)
    )
    return Geometry(middle, eyes, factor * self.eye_distance, nose, mouth)


# Geometries by data set, in the data set's own view: medians of the landmarks
# that CenterFace finds (`evaluation.detection`) in 200 images (ffhq: 17,
# yale_faces: 165). Standard deviations of the eyes' height are about 0.015, but
# 0.04 in yale_faces and 0.07 in orl_faces, which are not aligned.
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
  """Square to cut out so that an image's eyes lie where the target's eyes lie.

  Args:
    geometry: position of the face in the image.
    target: position of the face in the square.

  Returns:
    Left edge, upper edge and side of the square, in fractions of the image's
    side. The square may extend beyond the image.
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
  """Low light on a sensor that adds noise.

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    light: remaining fraction of the light, in [0, 1].
    stddev: standard deviation of the sensor's noise, in units of the pixel
      range.

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
  """Light from one side, and almost none on the other.

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    shade: factor of the light at the left edge, above 0.
    glare: factor of the light at the right edge, above 0. Factors of columns in
      between form a geometric sequence.
    stddev: standard deviation of the sensor's noise, in units of the pixel
      range.

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
    InputError: the images are grey.
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
  """Gaussian blur; pixels outside the image have no weight.

  Args:
    key: not used: the blur is always the same.
    x_HWC: float32 in [0, 1].
    sigma: standard deviation along each axis, as a fraction of the axis's
      length; above 0.

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
  """Blur of a camera that moves sideways at constant speed.

  Args:
    key: not used: the motion is always the same.
    x_HWC: float32 in [0, 1].
    path: length of the motion, as a fraction of the image's width.

  Returns:
    float32 in [0, 1], same shape.
  """
  del key

  def weights(length):
    # Pixels at the ends of the path have the weight of their covered part.
    reach = path * length / 2 + 0.5
    return np.clip(reach - np.abs(_between_pixels(length)), 0.0, 1.0)

  return _mix(x_HWC, np.eye, weights)


def pixelate(
  key: jax.Array, x_HWC: jax.Array, *, blocks: int = 10
) -> jax.Array:
  """Replaces blocks of pixels by their means, as to hide a face on purpose.

  Args:
    key: not used: the blocks are always the same.
    x_HWC: float32 in [0, 1].
    blocks: number of blocks along each axis; an axis with fewer pixels has one
      block per pixel.

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
    key: not used: the position is always the same, as for all coverings below.
    x_HWC: float32 in [0, 1].
    geometry: position of the face; a key of `GEOMETRIES`.
    level: value of the covered pixels, in [0, 1].

  Returns:
    float32 in [0, 1], same shape.

  Raises:
    InputError: the geometry is unknown.
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
  """A light mask over nose and mouth; arguments as of `dark_glasses`."""
  del key
  return _cover(x_HWC, "face_mask", geometry, level)


def hat_band(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  geometry: str = "celeb_a",
  level: float = 0.1,
) -> jax.Array:
  """A dark hat, down to the eyebrows; arguments as of `dark_glasses`."""
  del key
  return _cover(x_HWC, "hat_band", geometry, level)


def hand(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  geometry: str = "celeb_a",
  level: float = 0.6,
) -> jax.Array:
  """An area of a hand's size and shade; arguments as of `dark_glasses`."""
  del key
  return _cover(x_HWC, "hand", geometry, level)


def covered(
  name: str, shape_HW: tuple[int, int], *, geometry: str
) -> np.ndarray:
  """Pixels that a covering hides.

  Args:
    name: `dark_glasses`, `face_mask`, `hat_band` or `hand`.
    shape_HW: height and width of the image.
    geometry: position of the face; a key of `GEOMETRIES`.

  Returns:
    [H, W] bool.

  Raises:
    InputError: the geometry is unknown.
  """
  if geometry not in GEOMETRIES:
    raise types.InputError(
      f"Unknown geometry {geometry!r} of faces; known: {', '.join(GEOMETRIES)}."
    )
  face = GEOMETRIES[geometry]
  y_H, x_W = ((np.arange(length) + 0.5) / length for length in shape_HW)
  # Coordinates from the middle between the eyes, in eye distances; v points
  # down.
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
  """Everything above the eyebrows."""
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
  """Signed distances between all pixels of a row, in pixels."""
  position = np.arange(length)
  return position[:, None] - position


def _mix(x_HWC, rows, columns):
  """Weighted means along both axes.

  Args:
    x_HWC: float32.
    rows: function from the height to weights [H, H], not normalised.
    columns: function from the width to weights [W, W], not normalised.
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
  # Rounding may leave the range.
  return jnp.clip(y_HWC, 0.0, 1.0)
