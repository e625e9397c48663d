"""Augmentation: random variations of images, for small data sets.

Sources and canonical images are varied alike, before any mechanism acts.
Without variation, a discriminator memorises a small data set, and its scores
then tell the experts nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Augmentation(NamedTuple):
  """Range of the variations; all zero leaves images as they are.

  Attributes:
    flip: probability of a mirrored image, in [0, 1].
    shift: largest shift along each axis, as a fraction of the axis's length;
      pixels that enter the frame repeat the image's edge.
    zoom: largest relative change of size, drawn for each axis independently; at
      most 1.
    contrast: largest relative change of the distance from grey.
    brightness: largest change of brightness, in units of the pixel range.
  """

  flip: float = 0.0
  shift: float = 0.0
  zoom: float = 0.0
  contrast: float = 0.0
  brightness: float = 0.0


NONE = Augmentation()


def augment(
  key: jax.Array, x_BHWC: jax.Array, augmentation: Augmentation
) -> jax.Array:
  """Varies every image independently.

  Args:
    key: consumed.
    x_BHWC: float32 in [0, 1].
    augmentation: range of the variations.

  Returns:
    float32 in [0, 1], same shape.
  """
  num_images, height, width, _ = x_BHWC.shape
  flip_key, place_key, light_key = jax.random.split(key, 3)
  mirrored_B = jax.random.bernoulli(
    flip_key, augmentation.flip, (num_images, 1, 1, 1)
  )
  x_BHWC = jnp.where(mirrored_B, x_BHWC[:, :, ::-1], x_BHWC)

  shift_2B, zoom_2B = jax.random.uniform(
    place_key, (2, 2, num_images), minval=-1.0
  )
  place = jax.vmap(_place, (0, 0, None))
  shift_2B, zoom_2B = augmentation.shift * shift_2B, augmentation.zoom * zoom_2B
  x_BHWC = jnp.einsum(
    "bih,bjw,bhwc->bijc",
    place(shift_2B[0], zoom_2B[0], height),
    place(shift_2B[1], zoom_2B[1], width),
    x_BHWC,
  )

  gain_2B111 = jax.random.uniform(
    light_key, (2, num_images, 1, 1, 1), minval=-1.0
  )
  contrast_B111 = 1.0 + augmentation.contrast * gain_2B111[0]
  brightness_B111 = augmentation.brightness * gain_2B111[1]
  x_BHWC = 0.5 + contrast_B111 * (x_BHWC - 0.5) + brightness_B111
  return jnp.clip(x_BHWC, 0.0, 1.0)


def _place(shift, zoom, length: int):
  """Weights of linear interpolation along an axis, [length, length]."""
  middle = (length - 1) / 2
  pixel = jnp.arange(length, dtype=jnp.float32)
  position = (pixel - middle) * (1.0 + zoom) + middle + shift * length
  position = jnp.clip(position, 0.0, length - 1.0)
  return jnp.maximum(1.0 - jnp.abs(position[:, None] - pixel[None]), 0.0)
