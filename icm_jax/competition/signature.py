"""By which scores an expert knows its images, and its bonus where it does.

Two experts that are equally good at two mechanisms may go on sharing both, each
taking the images that chance has made it better at: both keep learning both, so
that neither drifts. But what all experts' outputs score tells which mechanism
an image has, for experts fail differently at different mechanisms. So every
expert remembers the scores of the images that it won, its signature, and has a
bonus where an image's scores are near it. The smallest imbalance between two
experts then grows until each has a mechanism of its own.

Scores are standardised, each expert's over the batch: the discriminator moves
all of them from step to step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax.competition import assign


def bonus(
  signature_EE: jax.Array, score_EB: jax.Array, weight: float
) -> jax.Array:
  """What is added to scores when winners are chosen, [E, B]; at most 0.

  Args:
    signature_EE: float, of every expert, the standardised scores of all.
    score_EB: float, logits.
    weight: logits that a mean squared distance of 1 from the signature costs.
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

  An expert remembers as many images as an equal share of about `assign.MEMORY`
  steps holds, so that one that wins little forgets no faster than others.

  Args:
    signature_EE: float, see `bonus`.
    score_EB: float, logits.
    winner_B: int32 in [0, E).

  Returns:
    The signatures; that of an expert without wins is what it was.
  """
  num_experts, num_images = score_EB.shape
  won_EB = jax.nn.one_hot(winner_B, num_experts, axis=0)
  count_E1 = won_EB.sum(axis=1, keepdims=True)
  sum_EE = won_EB @ _standardise(score_EB).T
  memory = assign.MEMORY * num_images / num_experts
  rate_E1 = jnp.minimum(count_E1 / memory, 1.0)
  mean_EE = sum_EE / jnp.maximum(count_E1, 1.0)
  return signature_EE + rate_E1 * (mean_EE - signature_EE)


def distance(signature_EE: jax.Array, counts_E: jax.Array) -> jax.Array:
  """How far signatures are from each other, [E, E], symmetric.

  Experts that undo one mechanism win images that score alike, whatever their
  number, and soon have one signature.

  Args:
    signature_EE: float, see `bonus`.
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
    signature_EE: float, see `bonus`.
    moved_E: bool.
    donor_E: int32 in [0, E), which counts where moved.
  """
  source_E = jnp.where(moved_E, donor_E, jnp.arange(donor_E.shape[0]))
  return signature_EE[source_E][:, source_E]


def _standardise(score_EB):
  """To a mean of 0 and a deviation of 1 over the batch, expert by expert."""
  centred_EB = score_EB - score_EB.mean(axis=1, keepdims=True)
  deviation_E1 = jnp.sqrt(jnp.mean(centred_EB**2, axis=1, keepdims=True))
  return centred_EB / jnp.maximum(deviation_E1, 1e-6)
