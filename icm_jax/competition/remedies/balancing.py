"""A handicap for busy experts.

Two experts may come to undo one mechanism equally well, although one of them
has another mechanism of its own. Nothing else would separate them, because the
busy expert forgets neither. With a small handicap for the busy one, the other
takes these images, learns from them alone, and stays ahead when the handicap is
gone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.competition.remedies import ranges, recent


def balance(weight: float) -> types.Remedy:
  """Lowers the merits of experts that won many images of recent steps.

  Its memory is each expert's share of recent wins, [E] float32.

  Args:
    weight: handicap in logits for each multiple of an equal share of wins
      (1 / E) beyond the first; more than 0.

  Raises:
    InputError: the weight is negative.
  """
  ranges.check("balance.weight", weight, least=0)

  def init(memory, state, setup):
    del setup
    return {**memory, "balance": recent.equal_shares(state)}

  def merit(merit_EB, state, seen):
    del seen
    handicap_E = handicap(state.memory["balance"], weight)
    return merit_EB - handicap_E[:, None]

  def after(state, seen, won):
    del seen
    win_share_E = recent.update_shares(state.memory["balance"], won)
    return state.remember("balance", win_share_E)

  return types.Remedy("balance", init=init, merit=merit, after=after)


def handicap(win_share_E: jax.Array, weight: float) -> jax.Array:
  """Returns the logits by which merits are lowered, [E] float32.

  Args:
    win_share_E: float32, share of recent images that each expert won; sums
      to 1.
    weight: weight of `balance`.
  """
  return weight * jnp.maximum(win_share_E * win_share_E.shape[0] - 1.0, 0.0)
