"""A bonus for images whose scores resemble those of images won before.

Two experts that are equally good at two mechanisms may share both for ever:
chance decides which images each wins, and so both keep learning both. But
experts fail differently at different mechanisms, so that the scores of all
experts together tell which mechanism an image has. Every expert therefore
remembers the mean scores of the images that it won, its signature, and gets a
bonus for images whose scores are near its signature. The smallest imbalance
between two experts then grows until each has a mechanism of its own.

Each expert's scores are standardised over the batch, because the discriminator
shifts all scores from step to step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.competition.remedies import ranges, recent


def signature(weight: float) -> types.Remedy:
  """Raises the merit of an expert whose signature is near an image's scores.

  Its memory is the signatures, [E, E] float32: row e has the mean standardised
  scores of all experts for the images that expert e won recently.

  Args:
    weight: logits by which a mean squared distance of 1 from the signature
      lowers the merit; more than 0.

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
  """Returns the bonus, which is added to merits, [E, B] float32; at most 0.

  Args:
    signature_EE: float32, see `signature`.
    score_EB: float32, logits.
    weight: weight of `signature`.
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

  Every expert averages over the same number of images, an equal share of those
  of about `recent.MEMORY` steps, so that an expert with few wins forgets no
  faster than others. Images with a score that is not finite are left out,
  because they would stay in the signatures for ever.

  Args:
    signature_EE: float32, see `signature`.
    score_EB: float32, logits.
    winner_B: int32 in [0, E), the winner of each image.

  Returns:
    The new signatures; that of an expert without wins is unchanged.
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
  """Returns mean squared differences of signatures, [E, E], symmetric.

  Experts that share a mechanism win images with the same scores, however many
  images each wins, so that their signatures become equal.

  Args:
    signature_EE: float32, see `signature`.
    counts_E: bool, experts whose scores are compared; at least one.
  """
  difference_EEE = signature_EE[:, None] - signature_EE[None]
  return jnp.mean(difference_EEE**2, axis=2, where=counts_E)


def move(
  signature_EE: jax.Array, moved_E: jax.Array, donor_E: jax.Array
) -> jax.Array:
  """Gives moved experts the signatures of their donors.

  The scores of a copy are those of its donor, and so rows and columns move.

  Args:
    signature_EE: float32, see `signature`.
    moved_E: bool, experts that became copies.
    donor_E: int32 in [0, E), the donor of each moved expert.
  """
  source_E = jnp.where(moved_E, donor_E, jnp.arange(donor_E.shape[0]))
  return signature_EE[source_E][:, source_E]


def _standardise(score_EB):
  """Scales each expert's scores to mean 0 and deviation 1 over the batch.

  Images with a score that is not finite are left out, and become zeros.
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
