"""A bonus for images whose scores are like those that an expert won before.

Two experts that are equally good at two mechanisms may go on sharing both, each
taking the images that chance has made it better at: both keep learning both, so
that neither drifts. But experts fail differently at different mechanisms, so
that the scores of all experts together tell which mechanism an image has. Every
expert therefore remembers the scores of the images that it won, its signature,
and has a bonus for images whose scores are near it. The smallest imbalance
between two experts then grows until each has a mechanism of its own.

Scores are standardised, each expert's over the batch: the discriminator moves
all of them from step to step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.competition.remedies import ranges, recent


def signature(weight: float) -> types.Remedy:
  """Raises the merit of an expert whose signature is near an image's scores.

  It remembers signatures, [E, E] float32: for every expert, the standardised
  scores of all experts for the images that it won of late.

  Args:
    weight: logits that a mean squared distance of 1 from the signature costs;
      more than 0.

  Raises:
    InputError: the weight is negative.
  """
  ranges.check("signature.weight", weight, least=0)

  def init(memory, state, setup):
    del setup
    num_experts = jax.tree.leaves(state.experts_E)[0].shape[0]
    signature_EE = jnp.zeros((num_experts, num_experts), jnp.float32)
    return {**memory, "signature": signature_EE}

  def merit(merit_EB, state, seen):
    return merit_EB + bonus(state.memory["signature"], seen.score_EB, weight)

  def after(state, seen, won):
    signature_EE = remember(
      state.memory["signature"], seen.score_EB, won.winner_B
    )
    return state.remember("signature", signature_EE)

  def copied(memory, state, moved_E, donor_E):
    del state
    return {**memory, "signature": move(memory["signature"], moved_E, donor_E)}

  return types.Remedy(
    "signature", init=init, merit=merit, after=after, copied=copied
  )


def bonus(
  signature_EE: jax.Array, score_EB: jax.Array, weight: float
) -> jax.Array:
  """What is added to merits, [E, B] float32; at most 0.

  Args:
    signature_EE: float32, as `signature` remembers it.
    score_EB: float32 logits.
    weight: as of `signature`.
  """
  known_EB = _standardise(score_EB)
  distance_EB = jnp.mean(
    (signature_EE[:, :, None] - known_EB[None]) ** 2, axis=1
  )
  return -weight * distance_EB


def remember(
  signature_EE: jax.Array, score_EB: jax.Array, winner_B: jax.Array
) -> jax.Array:
  """Moves signatures towards the scores of the images that experts won.

  An expert remembers as many images as an equal share of about `recent.MEMORY`
  steps holds, so that one that wins little forgets no faster than others. An
  image with a score that is not finite is left out: it would stay in the
  signatures for ever.

  Args:
    signature_EE: float32, see `signature`.
    score_EB: float32 logits.
    winner_B: int32 in [0, E).

  Returns:
    The signatures; that of an expert without wins is what it was.
  """
  num_experts, num_images = score_EB.shape
  known_EB = _standardise(score_EB)
  finite_B = jnp.isfinite(score_EB).all(axis=0)
  won_EB = jax.nn.one_hot(
    winner_B, num_experts, axis=0, dtype=signature_EE.dtype
  )
  won_EB = jnp.where(finite_B[None], won_EB, 0.0)
  count_E1 = won_EB.sum(axis=1, keepdims=True)
  sum_EE = won_EB @ known_EB.T
  memory = recent.MEMORY * num_images / num_experts
  rate_E1 = jnp.minimum(count_E1 / memory, 1.0)
  mean_EE = sum_EE / jnp.maximum(count_E1, 1.0)
  return signature_EE + rate_E1 * (mean_EE - signature_EE)


def distance(signature_EE: jax.Array, counts_E: jax.Array) -> jax.Array:
  """How far signatures are from each other, [E, E], symmetric.

  Experts that undo one mechanism win images that score alike, whatever their
  number, and soon have one signature.

  Args:
    signature_EE: float32, see `signature`.
    counts_E: bool, whose scores are compared; at least one.

  Returns:
    Mean squared differences.
  """
  difference_EEE = signature_EE[:, None] - signature_EE[None]
  return jnp.mean(difference_EEE**2, axis=2, where=counts_E)


def move(
  signature_EE: jax.Array, moved_E: jax.Array, donor_E: jax.Array
) -> jax.Array:
  """Gives moved experts the signatures of those whose copies they are.

  A copy scores as its donor does, and so it stands in everybody's signature.

  Args:
    signature_EE: float32, see `signature`.
    moved_E: bool.
    donor_E: int32 in [0, E), which counts where moved.
  """
  source_E = jnp.where(moved_E, donor_E, jnp.arange(donor_E.shape[0]))
  return signature_EE[source_E][:, source_E]


def _standardise(score_EB):
  """To a mean of 0 and a deviation of 1 over the batch, expert by expert.

  Images with a score that is not finite do not count, and become zeros.
  """
  finite_1B = jnp.isfinite(score_EB).all(axis=0, keepdims=True)
  score_EB = jnp.where(finite_1B, score_EB, 0.0)
  count = jnp.maximum(finite_1B.sum(dtype=jnp.int32), 1).astype(score_EB.dtype)

  def mean_E1(value_EB):
    total_E1 = jnp.sum(value_EB, axis=1, keepdims=True, where=finite_1B)
    return total_E1 / count

  centred_EB = jnp.where(finite_1B, score_EB - mean_E1(score_EB), 0.0)
  deviation_E1 = jnp.sqrt(mean_E1(centred_EB**2))
  return centred_EB / jnp.maximum(deviation_E1, 1e-6)
