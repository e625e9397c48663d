"""Linear maps of the image about its centre."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np


def warp(x_HWC, maps, which):
  """Samples the image at other places; it is black outside.

  Args:
    x_HWC: float32.
    maps: constant matrices [2, 2] from x and y of a pixel in the result to
      those in the image, both from the centre.
    which: the map to use.
  """
  samples = [_samples(x_HWC.shape[:2], np.asarray(map_)) for map_ in maps]
  index_N4P, weight_N4P = map(np.stack, zip(*samples, strict=True))
  index_4P = jnp.asarray(index_N4P)[which]
  weight_4P = jnp.asarray(weight_N4P, x_HWC.dtype)[which]
  x_PC = x_HWC.reshape(-1, x_HWC.shape[-1])
  y_PC = (weight_4P[..., None] * x_PC[index_4P]).sum(axis=0)
  return jnp.clip(y_PC.reshape(x_HWC.shape), 0.0, 1.0)


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
