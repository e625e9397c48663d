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


class Passes(NamedTuple):
  """The passes from which the discriminator learns.

  Attributes:
    canonical_B: float32, logits of this device's share of canonical images.
    objective: [] float32, the objectives of remedies.
    pullback: function of the gradients of a loss with respect to all scores of
      outputs [E, B] of this device, `canonical_B` and `objective`. It returns
      the gradient with respect to the discriminator; and with respect to the
      outputs that `backward.learners` picks, which is 0 where the winner is on
      another device.
  """

  canonical_B: jax.Array
  objective: jax.Array
  pullback: Callable[..., tuple[types.PyTree, jax.Array]]


class Judged(NamedTuple):
  """Scores, and what follows once the winners are known.

  Attributes:
    score_EB: float32, logits of the outputs of this device.
    teach: function of the assignment that returns the passes.
  """

  score_EB: jax.Array
  teach: Callable[[types.Assignment], Passes]


def judge(state: types.TrainState, seen: types.Seen) -> Judged:
  """Scores all outputs.

  Args:
    state: state before the update.
    seen: images and outputs of this device; its scores are not used.
  """
  num_experts = seen.y_EBHWC.shape[0] * devices.number(devices.EXPERT)
  losers = seen.setup.losers
  if losers is None or losers >= num_experts - 1:
    return _judge_all(state, seen)
  return _judge_few(state, seen, num_experts)


def _judge_all(state, seen):
  """Scores outputs by the pass from which the discriminator learns, too."""
  canonical_BHWC = devices.share(seen.batch.canonical_BHWC)

  def passes(discriminator, y_EBHWC):
    score = functools.partial(backward.score, seen.setup)
    return (
      _over_outputs(score, seen)(discriminator, y_EBHWC),
      score(discriminator, canonical_BHWC),
      _objective(discriminator, seen),
    )

  (score_EB, canonical_B, objective), pull = jax.vjp(
    passes, state.discriminator, seen.y_EBHWC
  )

  def teach(won):
    def pullback(slope_EB, slope_B, part):
      gradient, slope_EBHWC = pull((slope_EB, slope_B, part))
      chosen, _ = backward.learners(won, seen.setup)
      return gradient, slope_EBHWC[chosen]

    return Passes(canonical_B, objective, pullback)

  return Judged(score_EB, teach)


def _judge_few(state, seen, num_experts):
  """Learns by another pass, over canonical images and few outputs."""
  score = functools.partial(backward.score, seen.setup)
  score_EB = _over_outputs(score, seen)(state.discriminator, seen.y_EBHWC)
  canonical_BHWC = devices.share(seen.batch.canonical_BHWC)

  def teach(won):
    weight_EB = draw(
      rng.stream(state.key, "losers", state.step),
      won.winner_B,
      num_experts=num_experts,
      losers=seen.setup.losers,
    )
    weight_EB = devices.own(weight_EB, expert=0, data=1)
    picked = _largest(weight_EB, seen.setup.losers + 1)
    y_NBHWC = seen.y_EBHWC[picked]

    def passes(discriminator, y_NBHWC):
      # One call for all images, because each call reads all parameters.
      y_BHWC = y_NBHWC.reshape(-1, *canonical_BHWC.shape[1:])
      x_BHWC = jnp.concatenate(
        [canonical_BHWC, y_BHWC.astype(canonical_BHWC.dtype)]
      )
      score_B = score(discriminator, x_BHWC)
      canonical_B, of_outputs = jnp.split(score_B, [canonical_BHWC.shape[0]])
      score_NB = of_outputs.reshape(y_NBHWC.shape[:2])
      return score_NB, canonical_B, _objective(discriminator, seen)

    (_, canonical_B, objective), pull = jax.vjp(
      passes, state.discriminator, y_NBHWC
    )

    def pullback(slope_EB, slope_B, part):
      slope_NB = (slope_EB * weight_EB)[picked]
      gradient, slope_NBHWC = pull((slope_NB, slope_B, part))
      return gradient, slope_NBHWC[0]

    return Passes(canonical_B, objective, pullback)

  return Judged(score_EB, teach)


def _largest(weight_EB, count):
  """Returns the index [N, B] of the outputs with the largest weights.

  The winner comes first where it is on this device; no other weight is 1.
  """
  weight_BE = jnp.where(weight_EB == 1, jnp.inf, weight_EB).T
  count = min(count, weight_BE.shape[1])
  expert_NB = jax.lax.top_k(weight_BE, count)[1].T
  return expert_NB, jnp.arange(expert_NB.shape[1])[None]


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
  order_BE = jax.random.uniform(key, is_winner_BE.shape, jnp.float32)
  order_BE = jnp.where(is_winner_BE, -1.0, order_BE)
  drawn_BK = jax.lax.top_k(order_BE, losers)[1]
  weight_BE = jax.nn.one_hot(drawn_BK, num_experts, dtype=jnp.float32)
  weight_BE = weight_BE.sum(axis=1)
  weight_BE *= (num_experts - 1) / losers
  return jnp.where(is_winner_BE, 1.0, weight_BE).T


def _objective(discriminator, seen):
  """Returns the objectives of remedies."""
  zero = jnp.zeros((), jnp.float32)
  return seen.setup.through("objective", zero, discriminator, seen)


def _over_outputs(score, seen):
  mode = expert_axis.of_discriminator(seen.setup.expert_map)
  return expert_axis.map_leading(score, (None, 0), mode=mode)
