"""Who wins an image."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

# Steps over which shares of wins are remembered: short enough to follow a
# competition that settles within a few hundred steps.
MEMORY = 20.0


class Assignment(NamedTuple):
  """Which expert took which image.

  Attributes:
    winner_B: int32 in [0, E).
    wins_E: int32, images taken by each expert; sums to B.
  """

  winner_B: jax.Array
  wins_E: jax.Array


def assign_winners(
  score_EB: jax.Array, handicap_E: jax.Array | None = None
) -> Assignment:
  """Gives each image to the expert with the highest score (Sec. 3).

  Args:
    score_EB: float, larger is better. Ties go to the lower index.
    handicap_E: float, taken off an expert's scores; None is the plain rule.

  Returns:
    The assignment; no gradient flows into the scores.
  """
  chex.assert_rank(score_EB, 2)
  if handicap_E is not None:
    score_EB = score_EB - handicap_E[:, None]
  winner_B = jnp.argmax(jax.lax.stop_gradient(score_EB), axis=0)
  wins_E = jnp.bincount(winner_B, length=score_EB.shape[0])
  return Assignment(winner_B.astype(jnp.int32), wins_E.astype(jnp.int32))


def handicap(
  win_share_E: jax.Array, retired_E: jax.Array, balance: float
) -> jax.Array:
  """What a busy expert's scores are lowered by, [E] float, in logits.

  Two experts may come to undo a mechanism equally well, one of which has a
  mechanism of its own besides. Nothing else would ever part them: the busy one
  does not forget. With a small handicap the other takes these images, learns
  from them alone, and stays ahead when the handicap is gone.

  Args:
    win_share_E: float, share of recent images; sums to 1.
    retired_E: bool; no equal share is kept for them, and nothing won.
    balance: logits per equal share of wins in excess of one.
  """
  excess_E = jnp.maximum(win_share_E * jnp.sum(~retired_E) - 1.0, 0.0)
  return jnp.where(retired_E, jnp.inf, balance * excess_E)


def remember(mean: jax.Array, batch_mean: jax.Array) -> jax.Array:
  """A running mean over about `MEMORY` steps, moved by one batch's."""
  return mean + (batch_mean - mean) / MEMORY
