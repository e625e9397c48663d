"""Canny's edge detector (Canny, 1986), as in scikit-image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def canny(
  x_HW: jax.Array, *, sigma: float, low: float, high: float
) -> jax.Array:
  """Finds edges.

  Args:
    x_HW: float32.
    sigma: standard deviation of the blur before, in pixels; pixels outside the
      image have no weight.
    low: least gradient of an edge's pixels, in differences of Sobel's filter.
    high: least gradient of at least one pixel of an edge.

  Returns:
    [H, W] bool. Pixels at the image's edge are never in an edge.
  """
  rows_HH, columns_WW = (_gaussian(length, sigma) for length in x_HW.shape)
  smooth_HW = rows_HH @ x_HW @ columns_WW.T
  across_HW = _sobel(smooth_HW)
  down_HW = _sobel(smooth_HW.T).T
  slope_HW = jnp.hypot(across_HW, down_HW)
  ridge_HW = _is_ridge(slope_HW, across_HW, down_HW)
  weak_HW = ridge_HW & (slope_HW >= low)
  strong_HW = ridge_HW & (slope_HW >= high)

  def grow(edges):
    found_HW, _ = edges
    return weak_HW & _spread(found_HW), found_HW

  # Few turns suffice: only weak pixels are far from strong ones.
  edge_HW, _ = jax.lax.while_loop(
    lambda edges: (edges[0] != edges[1]).any(),
    grow,
    (strong_HW, jnp.zeros_like(strong_HW)),
  )
  return edge_HW


def _gaussian(length, sigma):
  """A blur of an axis without weights outside, as a matrix [L, L]."""
  position_L = np.arange(length)
  offset_LL = position_L[:, None] - position_L
  weight_LL = np.exp(-0.5 * (offset_LL / sigma) ** 2)
  weight_LL[np.abs(offset_LL) > int(4 * sigma + 0.5)] = 0
  weight_LL /= weight_LL.sum(axis=1, keepdims=True)
  return weight_LL.astype(np.float32)


def _sobel(x_HW):
  """Sobel's difference along rows."""
  x_HW = jnp.pad(x_HW, 1, mode="edge")
  x_HW = x_HW[:, 2:] - x_HW[:, :-2]
  return x_HW[:-2] + 2 * x_HW[1:-1] + x_HW[2:]


def _is_ridge(slope_HW, across_HW, down_HW):
  """Whether no slope before or behind, along the gradient, is greater."""
  height, width = slope_HW.shape
  padded_HW = jnp.pad(slope_HW, 1)

  def beside(down, right):
    top, left = 1 + down, 1 + right
    return padded_HW[top : top + height, left : left + width]

  steep_HW = jnp.abs(down_HW) >= jnp.abs(across_HW)
  # By symmetry, gradients towards the lower right and the upper left are one
  # case, and the other two directions are the other case.
  falls_HW = across_HW * down_HW >= 0
  larger_HW = jnp.maximum(jnp.abs(down_HW), jnp.abs(across_HW))
  smaller_HW = jnp.minimum(jnp.abs(down_HW), jnp.abs(across_HW))
  share_HW = smaller_HW / jnp.where(larger_HW > 0, larger_HW, 1.0)
  ridge_HW = larger_HW > 0
  for side in (-1, 1):
    straight_HW = jnp.where(steep_HW, beside(side, 0), beside(0, side))
    # Up to its sign, the diagonal of the second case is (1, -1).
    other_HW = jnp.where(steep_HW, beside(side, -side), beside(-side, side))
    diagonal_HW = jnp.where(falls_HW, beside(side, side), other_HW)
    between_HW = diagonal_HW * share_HW + straight_HW * (1 - share_HW)
    ridge_HW &= between_HW <= slope_HW
  row_H, column_W = np.arange(height), np.arange(width)
  inside_HW = np.minimum(row_H, height - 1 - row_H)[:, None] > 0
  inside_HW = inside_HW & (np.minimum(column_W, width - 1 - column_W) > 0)
  return ridge_HW & inside_HW


def _spread(mask_HW):
  """The mask and all pixels beside it."""
  for axis in (0, 1):
    side = [(0, 0), (0, 0)]
    side[axis] = (1, 1)
    padded_HW = jnp.pad(mask_HW, side)
    length = mask_HW.shape[axis]
    mask_HW = mask_HW | jax.lax.slice_in_dim(padded_HW, 0, length, axis=axis)
    mask_HW |= jax.lax.slice_in_dim(padded_HW, 2, 2 + length, axis=axis)
  return mask_HW
