"""A plasma fractal by the diamond-square algorithm, as a random map of fog."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Side of the whole map in pixels. The map has no borders: it repeats.
_SIDE = 256
# Spacing up to which the whole map is computed; finer points are computed where
# the image is, and hardly change the least and the greatest value of the map.
_FINE = 8


def fractal(
  key: jax.Array, shape_HW: Sequence[int], *, decay: float
) -> jax.Array:
  """A corner of a map of 256x256 pixels.

  Args:
    key: consumed.
    shape_HW: height and width of the corner.
    decay: by how much the amplitude falls, twice, with each halving of the
      spacing.

  Returns:
    [H, W] float32; the whole map has values from 0 to 1.
  """
  map_YX, amplitude, spacing = jnp.zeros((1, 1)), 1.0, _SIDE
  keys = iter(jax.random.split(key, _SIDE.bit_length() - 1))
  while spacing > _FINE:
    map_YX = _halve(next(keys), map_YX, amplitude)
    amplitude, spacing = amplitude / decay**2, spacing // 2
  low, high = map_YX.min(), map_YX.max()
  # Each refinement loses half a spacing at each edge, so that the corner starts
  # one coarse point before the image.
  rows_Y, columns_X = (
    np.arange(-1, -(-(length + _FINE - 2) // _FINE) + 1) % map_YX.shape[0]
    for length in shape_HW
  )
  corner_YX = map_YX[rows_Y[:, None], columns_X[None]]
  while spacing > 1:
    corner_YX = _halve(next(keys), corner_YX, amplitude)[1:-2, 1:-2]
    amplitude, spacing = amplitude / decay**2, spacing // 2
  corner_HW = corner_YX[1 : 1 + shape_HW[0], 1 : 1 + shape_HW[1]]
  low = jnp.minimum(low, corner_HW.min())
  high = jnp.maximum(high, corner_HW.max())
  return (corner_HW - low) / (high - low)


def _halve(key, map_YX, amplitude):
  """Puts points between the points of a map that repeats.

  Args:
    key: consumed.
    map_YX: the map.
    amplitude: greatest distance of a new point from the mean of the four around
      it.

  Returns:
    [2 * Y, 2 * X]; the points of `map_YX` are those with even numbers.
  """
  random_3YX = jax.random.uniform(
    key, (3, *map_YX.shape), minval=-amplitude, maxval=amplitude
  )
  # Points in the middle of four come first, since the others need them.
  across_YX = map_YX + jnp.roll(map_YX, -1, 1)
  down_YX = map_YX + jnp.roll(map_YX, -1, 0)
  middle_YX = (across_YX + jnp.roll(across_YX, -1, 0)) / 4 + random_3YX[0]
  across_YX += middle_YX + jnp.roll(middle_YX, 1, 0)
  down_YX += middle_YX + jnp.roll(middle_YX, 1, 1)
  across_YX = across_YX / 4 + random_3YX[1]
  down_YX = down_YX / 4 + random_3YX[2]
  upper_Y2X = jnp.stack([map_YX, across_YX], axis=-1)
  lower_Y2X = jnp.stack([down_YX, middle_YX], axis=-1)
  height, width = map_YX.shape
  return jnp.stack([upper_Y2X, lower_Y2X], axis=1).reshape(
    2 * height, 2 * width
  )
