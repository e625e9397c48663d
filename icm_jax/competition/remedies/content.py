"""What keeps an expert's output close to its input, beside the discriminator.

A discriminator alone rewards every plausible image, whatever the input was.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.competition import backward, losses
from icm_jax.competition.remedies import ranges


def identity(weight: float) -> types.Remedy:
  """Trains winners to leave canonical images alone.

  Every canonical image of a batch goes to one expert, so that an expert that
  won much learns as much from these; which image that is, chance decided.

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
