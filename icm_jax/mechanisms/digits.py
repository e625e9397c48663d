"""The paper's mechanisms for digits: shifts, noise, contrast inversion.

A mechanism is a pure function `(key, x_HWC) -> x_HWC` on float32 images in
[0, 1]. It keeps the shape, and consumes the key if it uses it at all.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def shift(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  up: int = 0,
  right: int = 0,
  pixels: int = 4,
  background: float = 0.0,
) -> jax.Array:
  """Shifts the image; pixels outside the frame are lost (Sec. 4).

  Args:
    key: not used: the shift is deterministic.
    x_HWC: float32 in [0, 1].
    up: vertical direction, -1, 0 or 1; -1 is down.
    right: horizontal direction, -1, 0 or 1; -1 is left.
    pixels: length of the shift along each axis.
    background: value of the pixels that enter the frame, in [0, 1].

  Returns:
    float32 in [0, 1], same shape.
  """
  del key
  height, width, _ = x_HWC.shape
  framed_HWC = jnp.pad(
    x_HWC,
    ((pixels, pixels), (pixels, pixels), (0, 0)),
    constant_values=background,
  )
  top, left = pixels * (1 + up), pixels * (1 - right)
  return framed_HWC[top : top + height, left : left + width]


def noise(
  key: jax.Array, x_HWC: jax.Array, *, stddev: float = 0.5
) -> jax.Array:
  """Adds Gaussian pixel noise and clips (Sec. 4, "noise").

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    stddev: standard deviation, in units of the pixel range.

  Returns:
    float32 in [0, 1], same shape.
  """
  noisy_HWC = x_HWC + stddev * jax.random.normal(key, x_HWC.shape)
  # Clipped, not rescaled: rescaling would change the contrast as well.
  return jnp.clip(noisy_HWC, 0.0, 1.0)


def invert(key: jax.Array, x_HWC: jax.Array) -> jax.Array:
  """Inverts the contrast, 1 - x (Sec. 4, "contrast inversion").

  Args:
    key: not used: the inversion is deterministic.
    x_HWC: float32 in [0, 1].

  Returns:
    float32 in [0, 1], same shape.
  """
  del key
  return 1.0 - x_HWC
