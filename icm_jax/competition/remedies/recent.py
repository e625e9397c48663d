"""Averages over recent steps, which several remedies remember."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax import types

# Time constant of the averages in steps: short enough to follow a competition
# that settles within a few hundred steps.
MEMORY = 20.0


def equal_shares(state: types.TrainState) -> jax.Array:
  """Returns shares of wins before the first update, [E] float32."""
  num_experts = jax.tree.leaves(state.experts_E)[0].shape[0]
  return jnp.full(num_experts, 1.0 / num_experts, jnp.float32)


def update_shares(win_share_E: jax.Array, won: types.Assignment) -> jax.Array:
  """Moves recent shares of wins towards those of one batch.

  Args:
    win_share_E: float32, share of recent images that each expert won; sums
      to 1.
    won: assignment of the batch.
  """
  wins_E = won.wins_E.astype(win_share_E.dtype)
  return win_share_E + (wins_E / wins_E.sum() - win_share_E) / MEMORY
