"""Transformed images as they are, as examples of what is not canonical.

An expert leaves traces, and a discriminator that sees outputs alone soon knows
traces better than mechanisms: it then prefers the expert that changes least,
whatever is left in the image. Transformed images have no traces.
"""

from __future__ import annotations

import jax

from icm_jax import devices, types
from icm_jax.competition import backward
from icm_jax.competition.remedies import ranges


def contrast(weight: float) -> types.Remedy:
  """Trains the discriminator to tell transformed images from canonical ones.

  It adds the cross entropy of transformed images, which are 0 like outputs, to
  the discriminator's loss.

  Args:
    weight: factor of their mean cross entropy; more than 0. The outputs of all
      experts together have 1.

  Raises:
    InputError: the weight is negative.
  """
  ranges.check("contrast.weight", weight, least=0)

  def objective(objective, discriminator, seen):
    score_B = backward.score(
      seen.setup, discriminator, devices.share(seen.batch.transformed_BHWC)
    )
    return objective + weight * jax.nn.softplus(score_B).mean()

  return types.Remedy("contrast", objective=objective)
