"""Pixels that change places with their neighbours, as behind frosted glass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def change_places(choice_HW: jax.Array, x_HWC: jax.Array) -> jax.Array:
  """Lets pixels change places with neighbours, one after another.

  The order is the benchmark's: row by row from the lower right, without the
  first two rows and columns. Pixels may travel far up and to the left. All rows
  work at the same time: each is two columns behind the row below, whose results
  it needs.

  Args:
    choice_HW: int in [0, 8). A pixel below 4 stays; 4 to 7 name its partner:
      itself, the pixel above, the one to the left, the one above that.
    x_HWC: float32.

  Returns:
    float32, same shape.
  """
  height, width, _ = x_HWC.shape
  if min(height, width) < 3:
    return x_HWC
  # Lane L is the L-th row from below. It loads its last column in turn 0, then
  # takes one column in each turn, and hands on what is left in its last turn.
  lane_L = np.arange(height - 2)
  turn_TL = np.arange(width + 2 * (height - 3))[:, None] - 2 * lane_L
  row_L, column_TL = height - 1 - lane_L, width - turn_TL
  acts_TL = (column_TL >= 2) & (column_TL < width)
  choice_TL = choice_HW[row_L, np.clip(column_TL, 0, width - 1)]
  left_TL = np.clip(column_TL - 1, 0, width - 1)

  def turn(carry, inputs):
    upper_LC, lower_LC, passed_LC = carry
    choice_L1, upper_left_LC, last_row_1C = inputs
    lower_left_LC = jnp.concatenate([last_row_1C, passed_LC[:-1]])
    up, left, both = (choice_L1 == number for number in (5, 6, 7))
    new_LC = jnp.where(up, upper_LC, lower_LC)
    new_LC = jnp.where(left, lower_left_LC, new_LC)
    new_LC = jnp.where(both, upper_left_LC, new_LC)
    passed_LC = jnp.where(up, lower_LC, upper_LC)
    carry = (
      jnp.where(both, lower_LC, upper_left_LC),
      jnp.where(left, lower_LC, lower_left_LC),
      passed_LC,
    )
    return carry, (new_LC, passed_LC[-1])

  zero_LC = jnp.zeros_like(x_HWC[2:, 0])
  _, (lower_TLC, first_TC) = jax.lax.scan(
    turn,
    (zero_LC, zero_LC, zero_LC),
    (
      jnp.where(acts_TL, choice_TL, 0)[..., None],
      x_HWC[row_L - 1, left_TL],
      x_HWC[-1, left_TL[:, 0]][:, None],
    ),
  )
  column_W = np.arange(1, width)
  time_LW = width - column_W + 2 * lane_L[:, None]
  lower_LWC = lower_TLC[time_LW, lane_L[:, None]]
  upper_1WC = first_TC[time_LW[-1:]]
  inner_HWC = jnp.concatenate([upper_1WC, lower_LWC[::-1]])
  return x_HWC.at[1:, 1:].set(inner_HWC)
