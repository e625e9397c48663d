"""A penalty on the discriminator's gradient in the pixels of canonical images.

A discriminator that has seen few images soon knows each of them, and is then
steep where experts need it to be smooth.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.competition import backward
from icm_jax.competition.remedies import ranges

# Length of the step to either side, over all pixels of an image: short enough
# that a score is straight there, and of the digits of float32 it leaves four.
_STEP = 0.02

# R1 looks at one canonical image in so many: three times through D for each
# would make an update 16 % longer, and a quarter of them steadies D as well.
R1_STRIDE = 4

Score = Callable[[types.PyTree, jax.Array], jax.Array]


def r1(weight: float) -> types.Remedy:
  """Adds R1 to the discriminator's loss (Mescheder et al. 2018).

  Half of the mean squared length of the score's gradient at every
  `R1_STRIDE`-th canonical image.

  Args:
    weight: factor of the penalty; more than 0.

  Raises:
    InputError: the weight is negative.
  """
  ranges.check("r1.weight", weight, least=0)

  def objective(objective, discriminator, seen):
    score = functools.partial(backward.score, seen.setup)
    seen_BHWC = seen.batch.canonical_BHWC[::R1_STRIDE]
    return objective + weight * penalty(score, discriminator, seen_BHWC)

  return types.Remedy("r1", objective=objective)


def penalty(
  score: Score, discriminator: types.PyTree, x_BHWC: jax.Array
) -> jax.Array:
  """Half of the squared slope, the mean over images, a scalar.

  Args:
    score: as for `slope`.
    discriminator: parameters.
    x_BHWC: images.
  """
  return 0.5 * jnp.mean(slope(score, discriminator, x_BHWC) ** 2)


def slope(
  score: Score, discriminator: types.PyTree, x_BHWC: jax.Array
) -> jax.Array:
  """Length of a score's gradient in the pixels of each image, [B].

  It can be differentiated in the parameters without second derivatives, which
  compiled convolutions do not have: with its direction held fixed, the length
  is a difference of two scores. That the direction turns as well changes
  nothing to first order, for it is the steepest.

  Args:
    score: parameters and images to scores, [B]; each depends on its own image
      only.
    discriminator: parameters.
    x_BHWC: images; no gradient flows into them.
  """
  fixed, x_BHWC = jax.lax.stop_gradient((discriminator, x_BHWC))
  gradient_BHWC = jax.grad(lambda x_BHWC: score(fixed, x_BHWC).sum())(x_BHWC)
  length_B111 = jnp.sqrt(
    jnp.sum(gradient_BHWC**2, axis=(1, 2, 3), keepdims=True)
  )
  step_BHWC = _STEP * gradient_BHWC / jnp.maximum(length_B111, 1e-12)
  rise_B = score(discriminator, x_BHWC + step_BHWC) - score(
    discriminator, x_BHWC - step_BHWC
  )
  return rise_B / (2 * _STEP)
