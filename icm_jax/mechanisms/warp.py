"""Linear maps of the image about its centre."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def warp(
  x_HWC: jax.Array, map_22: np.ndarray, *, mirrored: jax.Array | bool = False
) -> jax.Array:
  """Samples the image at other places; it is black outside.

  Args:
    x_HWC: float32 in [0, 1].
    map_22: constant matrix from x and y of a pixel in the result to those in
      the image, both from the centre.
    mirrored: whether left and right are exchanged in the map. Both maps of a
      random side share their constants in this way.

  Returns:
    float32 in [0, 1], same shape.
  """
  index_4P, weight_4P = _samples(x_HWC.shape[:2], map_22)
  x_PC = _mirror(x_HWC, mirrored).reshape(-1, x_HWC.shape[-1])
  y_PC = jnp.zeros_like(x_PC)
  for index_P, weight_P in zip(index_4P, weight_4P, strict=True):
    y_PC += weight_P.astype(np.float32)[:, None] * x_PC[index_P]
  y_HWC = _mirror(y_PC.reshape(x_HWC.shape), mirrored)
  return jnp.clip(y_HWC, 0.0, 1.0)


def _mirror(x_HWC, mirrored):
  return jnp.where(mirrored, x_HWC[:, ::-1], x_HWC)


def _samples(shape_HW, map_22):
  """Numbers and weights of the four pixels around each sample, [4, H * W]."""
  height, width = shape_HW
  row_P, column_P = (axis.ravel() for axis in np.indices(shape_HW))
  middle = np.array([[(width - 1) / 2], [(height - 1) / 2]])
  x_P, y_P = map_22 @ (np.stack([column_P, row_P]) - middle) + middle
  left_P, top_P = np.floor(x_P).astype(int), np.floor(y_P).astype(int)
  index, weight = [], []
  for down in (0, 1):
    for right in (0, 1):
      column_P, row_P = left_P + right, top_P + down
      share_P = np.clip(1 - np.abs(column_P - x_P), 0, 1)
      share_P = share_P * np.clip(1 - np.abs(row_P - y_P), 0, 1)
      share_P *= (column_P >= 0) & (column_P < width)
      share_P *= (row_P >= 0) & (row_P < height)
      column_P = np.clip(column_P, 0, width - 1)
      index.append(np.clip(row_P, 0, height - 1) * width + column_P)
      weight.append(share_P)
  return np.stack(index), np.stack(weight)
