"""A price of change, so that experts leave alone what they need not change."""

from __future__ import annotations

import jax.numpy as jnp

from icm_jax import types
from icm_jax.competition import backward
from icm_jax.competition.remedies import ranges


def change(weight: float) -> types.Remedy:
  """Adds the mean absolute change of the winners' images to their loss.

  The discriminator alone does not mind whether an expert redraws all of a face
  or its glasses only. The penalty is that of VA-GAN (Baumgartner et al. 2018).

  Args:
    weight: factor of the mean over images, pixels and channels of the absolute
      difference between output and input; more than 0.

  Raises:
    InputError: the weight is negative.
  """
  ranges.check("change.weight", weight, least=0)

  def cotangent(cotangent, state, seen, won):
    del state
    x_BHWC, y = seen.batch.transformed_BHWC, seen.y_EBHWC
    if cotangent.ndim == x_BHWC.ndim:
      y = y[backward.winners(won)]
    else:
      x_BHWC = x_BHWC[None]
    slope = jnp.sign(y - x_BHWC.astype(y.dtype)).astype(cotangent.dtype)
    return cotangent + weight / seen.batch.transformed_BHWC.size * slope

  return types.Remedy("change", cotangent=cotangent)
