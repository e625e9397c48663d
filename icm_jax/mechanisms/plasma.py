"""A plasma fractal by the diamond-square algorithm, as a random map of fog."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Side of the whole map in pixels. The map has no borders: it repeats.
_SIDE = 256
# Spacing up to which the whole map is computed; finer points are computed where
# the image is. Elsewhere they would change the least and the greatest value by
# 0.1 % of their difference.
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
  # Each halving of the corner loses half a spacing at each edge, so that the
  # corner starts one coarse point before the image.
  row_Y, column_X = (
    np.arange(-1, -(-(length + _FINE - 2) // _FINE) + 1) for length in shape_HW
  )
  whole = [(side, side) for side in _powers(_SIDE // _FINE)]
  corner = [
    (times * (len(row_Y) - 3) + 3, times * (len(column_X) - 3) + 3)
    for times in _powers(_FINE)
  ]
  # All levels are drawn by one call, since each call takes long to compile.
  sizes = [3 * height * width for height, width in whole + corner]
  random_N = jax.random.uniform(key, (sum(sizes),), minval=-1.0, maxval=1.0)
  levels = [
    decay ** (-2 * level) * part_N.reshape(3, *shape)
    for level, (part_N, shape) in enumerate(
      zip(
        jnp.split(random_N, np.cumsum(sizes)[:-1]), whole + corner, strict=True
      )
    )
  ]
  map_YX = jnp.zeros((1, 1))
  for random_3YX in levels[: len(whole)]:
    map_YX = _halve(map_YX, random_3YX)
  low, high = map_YX.min(), map_YX.max()
  length = len(map_YX)
  map_YX = map_YX[row_Y[:, None] % length, column_X[None] % length]
  for random_3YX in levels[len(whole) :]:
    map_YX = _halve(map_YX, random_3YX)[1:-2, 1:-2]
  map_HW = map_YX[1 : 1 + shape_HW[0], 1 : 1 + shape_HW[1]]
  low, high = (
    jnp.minimum(low, map_HW.min()),
    jnp.maximum(high, map_HW.max()),
  )
  return (map_HW - low) / (high - low)


def _powers(end):
  """Powers of two below another power of two."""
  return [1 << level for level in range(end.bit_length() - 1)]


def _halve(map_YX, random_3YX):
  """Puts points between the points of a map that repeats.

  Args:
    map_YX: the map.
    random_3YX: distances of three new points for each from the mean of the four
      points around it.

  Returns:
    [2 * Y, 2 * X]; the points of `map_YX` are those with even numbers.
  """
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
