"""A larger weight of winners' outputs in the discriminator's loss.

With the paper's equal weights, the one output in E that competes with canonical
images has little influence on the discriminator.
"""

from __future__ import annotations

import jax

from icm_jax import types
from icm_jax.competition.remedies import ranges


def winner_weight(weight: float) -> types.Remedy:
  """Gives a share of the discriminator's weight on outputs to winners alone.

  The rest of the weight is shared as before. All outputs of an image together
  have the weight of one canonical image.

  Args:
    weight: share of the winners, more than 0 and at most 1; 1 leaves losers'
      outputs out of the discriminator's loss.

  Raises:
    InputError: the weight is not in [0, 1], or losers learn too.
  """
  ranges.check("winner_weight.weight", weight, least=0, most=1)

  def init(memory, state, setup):
    del state
    if setup.losers_learn:
      raise types.InputError(
        "With losers_learn, all outputs must have the same weight in the "
        "discriminator's loss; leave out the remedy winner_weight."
      )
    return memory

  def reweigh(weight_EB, won):
    num_experts = weight_EB.shape[0]
    won_EB = jax.nn.one_hot(
      won.winner_B, num_experts, axis=0, dtype=weight_EB.dtype
    )
    return (1.0 - weight) * weight_EB + weight * won_EB

  return types.Remedy("winner_weight", init=init, weight=reweigh)
