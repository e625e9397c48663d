"""The discriminator's passes over canonical images and outputs.

All outputs are scored. The discriminator learns from all of them, as in the
paper; or from the winners' and those of a few losers, which are drawn at random
and weighted so that the gradient is the same on average. Its backward pass then
takes a fraction of the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from icm_jax import devices, rng, types
from icm_jax.competition import backward, expert_axis


class Judged(NamedTuple):
  """Scores, and a function to gradients through them.

  Attributes:
    score_EB: float32, logits of the outputs of this device.
    canonical_B: float32, logits of this device's share of canonical images.
    objective: [] float32, the objectives of remedies.
    pullback: function of the gradients of a loss with respect to these three,
      and of the assignment. It returns the gradient with respect to the
      discriminator; and with respect to the outputs that `backward.learners`
      picks, which is 0 where the winner is on another device.
  """

  score_EB: jax.Array
  canonical_B: jax.Array
  objective: jax.Array
  pullback: Callable[..., tuple[types.PyTree, jax.Array]]


def judge(state: types.TrainState, seen: types.Seen) -> Judged:
  """Scores canonical images and all outputs.

  Args:
    state: state before the update.
    seen: images and outputs of this device; its scores are not used.
  """
  num_experts = seen.y_EBHWC.shape[0] * devices.number(devices.EXPERT)
  losers = seen.setup.losers
  if losers is None or losers >= num_experts - 1:
    return _judge_and_keep(state, seen)
  return _judge_twice(state, seen, num_experts)


def _judge_and_keep(state, seen):
  """Learns from all outputs, by one pass of which all values are kept."""

  def passes(discriminator, y_EBHWC):
    canonical_B, objective = _canonical(discriminator, seen)
    return _outputs(discriminator, y_EBHWC, seen), canonical_B, objective

  (score_EB, canonical_B, objective), pull = jax.vjp(
    passes, state.discriminator, seen.y_EBHWC
  )

  def pullback(slope_EB, slope_B, part, won):
    gradient, slope_EBHWC = pull((slope_EB, slope_B, part))
    chosen, _ = backward.learners(won, seen.setup)
    return gradient, slope_EBHWC[chosen]

  return Judged(score_EB, canonical_B, objective, pullback)


def _judge_twice(state, seen, num_experts):
  """Learns from few outputs, by a second pass over these."""
  score_EB = _outputs(state.discriminator, seen.y_EBHWC, seen)
  (canonical_B, objective), pull = jax.vjp(
    functools.partial(_canonical, seen=seen), state.discriminator
  )

  def pullback(slope_EB, slope_B, part, won):
    weight_EB = draw(
      rng.stream(state.key, "losers", state.step),
      won.winner_B,
      num_experts=num_experts,
      losers=seen.setup.losers,
    )
    weight_EB = devices.own(weight_EB, expert=0, data=1)
    # The winner comes first if it is on this device, because its weight is the
    # only one that is not 0 and not above 1.
    weight_BE = weight_EB.T
    count = min(seen.setup.losers + 1, weight_EB.shape[0])
    order_BE = jnp.where(weight_BE == 1, jnp.inf, weight_BE)
    expert_NB = jax.lax.top_k(order_BE, count)[1].T
    picked = (expert_NB, jnp.arange(expert_NB.shape[1])[None])
    _, pull_outputs = jax.vjp(
      functools.partial(_outputs, seen=seen),
      state.discriminator,
      seen.y_EBHWC[picked],
    )
    more, slope_NBHWC = pull_outputs((slope_EB * weight_EB)[picked])
    (gradient,) = pull((slope_B, part))
    return jax.tree.map(jnp.add, gradient, more), slope_NBHWC[0]

  return Judged(score_EB, canonical_B, objective, pullback)


def draw(
  key: jax.Array, winner_B: jax.Array, *, num_experts: int, losers: int
) -> jax.Array:
  """Draws losers of every image, all with the same probability.

  Args:
    key: typed key; consumed.
    winner_B: int32 in [0, E), the winner of each image.
    num_experts: E.
    losers: number of losers of an image, at least 1 and less than E - 1.

  Returns:
    Weights [E, B] with a mean of 1 over draws: 1 for the winner, (E - 1) /
    losers for the losers that were drawn, and 0 for the others.
  """
  is_winner_BE = jax.nn.one_hot(winner_B, num_experts, dtype=bool)
  order_BE = jax.random.uniform(key, is_winner_BE.shape)
  order_BE = jnp.where(is_winner_BE, -1.0, order_BE)
  drawn_BK = jax.lax.top_k(order_BE, losers)[1]
  weight_BE = jax.nn.one_hot(drawn_BK, num_experts).sum(axis=1)
  weight_BE *= (num_experts - 1) / losers
  return jnp.where(is_winner_BE, 1.0, weight_BE).T


def _canonical(discriminator, seen):
  """Returns scores of canonical images, and the objectives of remedies."""
  objective = jnp.zeros((), jnp.float32)
  objective = seen.setup.through("objective", objective, discriminator, seen)
  canonical_BHWC = devices.share(seen.batch.canonical_BHWC)
  return backward.score(seen.setup, discriminator, canonical_BHWC), objective


def _outputs(discriminator, y_NBHWC, seen):
  """Returns scores of outputs, [N, B]."""
  score = functools.partial(backward.score, seen.setup)
  mode = expert_axis.of_discriminator(seen.setup.expert_map)
  over = expert_axis.map_leading(score, (None, 0), mode=mode)
  return over(discriminator, y_NBHWC)
