"""A loss that keeps experts' outputs close to their inputs.

The discriminator alone rewards every plausible image, whatever the input was.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.competition import backward, losses
from icm_jax.competition.remedies import ranges


def identity(weight: float) -> types.Remedy:
  """Trains winners to leave canonical images unchanged.

  The winner of a transformed image also learns from the canonical image at the
  same place in the batch, so that experts learn from as many canonical images
  as they won transformed ones.

  Args:
    weight: factor of the mean squared error on canonical images; more than 0.

  Raises:
    InputError: the weight is negative.
  """
  ranges.check("identity.weight", weight, least=0)

  def gradient(grads_E, state, seen, won):
    canonical_BHWC = seen.batch.canonical_BHWC
    setup = seen.setup._replace(losers_learn=False)
    outputs = backward.apply_experts(state, canonical_BHWC, setup=setup)
    chosen, _ = backward.learners(won, setup)

    def objective(y_BHWC):
      error_B = losses.reconstruction_loss(y_BHWC, canonical_BHWC)
      return weight * error_B.mean()

    more_E = backward.experts_gradient(
      state,
      canonical_BHWC,
      outputs,
      jax.grad(objective)(outputs.y_EBHWC[chosen]),
      won,
      setup=setup,
    )
    return jax.tree.map(jnp.add, grads_E, more_E)

  return types.Remedy("identity", gradient=gradient)
