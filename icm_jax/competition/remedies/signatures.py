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

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from icm_jax import types
from icm_jax.competition.remedies import ranges, recent


class Signatures(NamedTuple):
  """Memory of `signature`.

  Attributes:
    signature_EE: float32; row e has the mean standardised scores of all experts
      for the images that expert e won recently.
    mean_E: float32, recent mean of each expert's scores, in logits.
    deviation_E: float32, their recent standard deviation within a batch.
  """

  signature_EE: jax.Array
  mean_E: jax.Array
  deviation_E: jax.Array


export.register_namedtuple_serialization(
  Signatures, serialized_name="icm_jax.Signatures"
)


def signature(weight: float, test_weight: float = 0.0) -> types.Remedy:
  """Raises the merit of an expert whose signature is near an image's scores.

  Args:
    weight: logits by which a mean squared distance of 1 from the signature
      lowers the merit; more than 0.
    test_weight: the same outside training, where recent means and deviations
      take the place of the batch's; at least 0.

  Raises:
    InputError: a weight is negative.
  """
  ranges.check("signature.weight", weight, least=0)
  ranges.check("signature.test_weight", test_weight, least=0)

  def init(memory, state, setup):
    del setup
    num_experts = jax.tree.leaves(state.experts_E)[0].shape[0]
    start = Signatures(
      signature_EE=jnp.zeros((num_experts, num_experts), jnp.float32),
      mean_E=jnp.zeros(num_experts, jnp.float32),
      deviation_E=jnp.ones(num_experts, jnp.float32),
    )
    return {**memory, "signature": start}

  def merit(merit_EB, state, seen):
    signature_EE = state.memory["signature"].signature_EE
    return merit_EB + bonus(signature_EE, seen.score_EB, weight)

  def test_merit(merit_EB, state, seen):
    signature_EE, *scale = state.memory["signature"]
    return merit_EB + bonus(signature_EE, seen.score_EB, test_weight, scale)

  def after(state, seen, won):
    old = state.memory["signature"]
    mean_E, deviation_E = scale_of(seen.score_EB)
    new = Signatures(
      remember(old.signature_EE, seen.score_EB, won.winner_B),
      old.mean_E + (mean_E - old.mean_E) / recent.MEMORY,
      old.deviation_E + (deviation_E - old.deviation_E) / recent.MEMORY,
    )
    return state.remember("signature", new)

  def copied(memory, state, moved_E, donor_E):
    del state
    return {**memory, "signature": move(memory["signature"], moved_E, donor_E)}

  remedy = types.Remedy(
    "signature", init=init, merit=merit, after=after, copied=copied
  )
  return remedy._replace(test_merit=test_merit) if test_weight else remedy


def bonus(
  signature_EE: jax.Array,
  score_EB: jax.Array,
  weight: float,
  scale: Sequence[jax.Array] | None = None,
) -> jax.Array:
  """Returns the bonus, which is added to merits, [E, B] float32; at most 0.

  Args:
    signature_EE: float32, see `Signatures`.
    score_EB: float32, logits.
    weight: weight of `signature`.
    scale: mean and deviation of each expert's scores, [E] float32 each; None
      are those of the batch.
  """
  known_EB = _standardise(score_EB, *(scale or scale_of(score_EB)))
  distance_EB = jnp.mean(
    (signature_EE[:, :, None] - known_EB[None]) ** 2, axis=1
  )
  return -weight * distance_EB


def remember(
  signature_EE: jax.Array, score_EB: jax.Array, winner_B: jax.Array
) -> jax.Array:
  """Moves signatures towards the scores of the images that experts won.

  Args:
    signature_EE: float32, see `Signatures`.
    score_EB: float32, logits.
    winner_B: int32 in [0, E), the winner of each image.

  Returns:
    The new signatures, see `recent.update_means`.
  """
  known_EB = _standardise(score_EB, *scale_of(score_EB))
  finite_1B = jnp.isfinite(score_EB).all(axis=0, keepdims=True)
  known_EB = jnp.where(finite_1B, known_EB, jnp.nan)
  return recent.update_means(signature_EE, known_EB.T, winner_B)


def distance(signature_EE: jax.Array, counts_E: jax.Array) -> jax.Array:
  """Returns mean squared differences of signatures, [E, E], symmetric.

  Experts that share a mechanism win images with the same scores, however many
  images each wins, so that their signatures become equal.

  Args:
    signature_EE: float32, see `Signatures`.
    counts_E: bool, experts whose scores are compared; at least one.
  """
  difference_EEE = signature_EE[:, None] - signature_EE[None]
  return jnp.mean(difference_EEE**2, axis=2, where=counts_E)


def move(
  memory: Signatures, moved_E: jax.Array, donor_E: jax.Array
) -> Signatures:
  """Gives moved experts the signatures of their donors.

  The scores of a copy are those of its donor, and so rows and columns move.

  Args:
    memory: memory of the remedy.
    moved_E: bool, experts that became copies.
    donor_E: int32 in [0, E), the donor of each moved expert.
  """
  source_E = jnp.where(moved_E, donor_E, jnp.arange(donor_E.shape[0]))
  return Signatures(
    memory.signature_EE[source_E][:, source_E],
    memory.mean_E[source_E],
    memory.deviation_E[source_E],
  )


def scale_of(score_EB: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns mean and deviation of each expert's scores over a batch, [E] each.

  Images with a score that is not finite are left out. A deviation is at least
  1e-6.

  Args:
    score_EB: float32, logits.
  """
  finite_1B = jnp.isfinite(score_EB).all(axis=0, keepdims=True)
  score_EB = jnp.where(finite_1B, score_EB, 0.0)
  count = jnp.maximum(finite_1B.sum(dtype=jnp.int32), 1).astype(score_EB.dtype)

  def mean_E1(value_EB):
    total_E1 = jnp.sum(value_EB, axis=1, keepdims=True, where=finite_1B)
    return total_E1 / count

  mean = mean_E1(score_EB)
  centred_EB = jnp.where(finite_1B, score_EB - mean, 0.0)
  deviation_E1 = jnp.sqrt(mean_E1(centred_EB**2))
  return mean[:, 0], jnp.maximum(deviation_E1, 1e-6)[:, 0]


def _standardise(score_EB, mean_E, deviation_E):
  """Scales each expert's scores; scores that are not finite give zeros."""
  finite_1B = jnp.isfinite(score_EB).all(axis=0, keepdims=True)
  centred_EB = jnp.where(finite_1B, score_EB - mean_E[:, None], 0.0)
  return centred_EB / deviation_E[:, None]
