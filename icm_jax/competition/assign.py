"""The assignment of images to experts."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from icm_jax import types


def assign_winners(merit_EB: jax.Array) -> types.Assignment:
  """Gives each image to the expert with the highest merit (Sec. 3).

  Args:
    merit_EB: float, larger is better. Ties go to the expert with the lower
      index; NaN loses against every number.

  Returns:
    The assignment; no gradient flows into the merits.
  """
  chex.assert_rank(merit_EB, 2)
  merit_EB = jax.lax.stop_gradient(merit_EB)
  merit_EB = jnp.where(jnp.isnan(merit_EB), -jnp.inf, merit_EB)
  winner_B = jnp.argmax(merit_EB, axis=0).astype(jnp.int32)
  wins_E = jnp.bincount(winner_B, length=merit_EB.shape[0]).astype(jnp.int32)
  return types.Assignment(winner_B, wins_E)
