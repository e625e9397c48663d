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


def update_means(
  mean_EF: jax.Array, value_BF: jax.Array, winner_B: jax.Array
) -> jax.Array:
  """Moves every expert's means towards those of the images that it won.

  Every expert averages over the same number of images, an equal share of those
  of about `MEMORY` steps, so that an expert with few wins forgets no faster
  than others. The means of an expert without wins do not change. Images with a
  value that is not finite are left out, because they would stay for ever.

  Args:
    mean_EF: float32, means over the images that each expert won recently.
    value_BF: float32, values of a batch.
    winner_B: int32 in [0, E), the winner of each image.
  """
  num_experts, num_images = mean_EF.shape[0], value_BF.shape[0]
  finite_B1 = jnp.isfinite(value_BF).all(axis=1, keepdims=True)
  won_EB = jax.nn.one_hot(winner_B, num_experts, axis=0, dtype=mean_EF.dtype)
  won_EB = jnp.where(finite_B1.T, won_EB, 0.0)
  count_E1 = won_EB.sum(axis=1, keepdims=True)
  sum_EF = won_EB @ jnp.where(finite_B1, value_BF, 0.0)
  rate_E1 = jnp.minimum(count_E1 / (MEMORY * num_images / num_experts), 1.0)
  return mean_EF + rate_E1 * (sum_EF / jnp.maximum(count_E1, 1.0) - mean_EF)
