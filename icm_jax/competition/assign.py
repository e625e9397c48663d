"""Who wins an image."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Assignment(NamedTuple):
  """Which expert took which image.

  Attributes:
    winner_B: int32 in [0, E).
    wins_E: int32, images taken by each expert; sums to B.
  """

  winner_B: jax.Array
  wins_E: jax.Array


def assign_winners(score_EB: jax.Array) -> Assignment:
  """Gives each image to the expert with the highest score (Sec. 3).

  Args:
    score_EB: float, larger is better. Ties go to the lower index.

  Returns:
    The assignment; no gradient flows into the scores.
  """
  chex.assert_rank(score_EB, 2)
  winner_B = jnp.argmax(jax.lax.stop_gradient(score_EB), axis=0)
  wins_E = jnp.bincount(winner_B, length=score_EB.shape[0])
  return Assignment(winner_B.astype(jnp.int32), wins_E.astype(jnp.int32))
