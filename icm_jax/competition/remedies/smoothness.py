"""R1: a penalty on the discriminator's gradient at canonical images.

A discriminator that has seen few images soon knows each of them, and then its
score is steep at canonical images, where experts need it to be smooth.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from icm_jax import devices, types
from icm_jax.competition import backward
from icm_jax.competition.remedies import ranges

# Length of the step to either side, over all pixels of an image: short enough
# for the score to be straight, and long enough for four digits of float32.
_STEP = 0.02

# R1 uses every fourth canonical image. Three passes through the discriminator
# for every image would make an update 16 % longer, and a quarter of the images
# steadies the discriminator as well.
R1_STRIDE = 4

Score = Callable[[types.PyTree, jax.Array], jax.Array]


def r1(weight: float) -> types.Remedy:
  """Adds R1 to the discriminator's loss (Mescheder et al. 2018).

  The penalty is half of the mean squared length of the score's gradient with
  respect to the pixels, at every `R1_STRIDE`-th canonical image.

  Args:
    weight: factor of the penalty; more than 0.

  Raises:
    InputError: the weight is negative.
  """
  ranges.check("r1.weight", weight, least=0)

  def objective(objective, discriminator, seen):
    score = functools.partial(backward.score, seen.setup)
    canonical_BHWC = seen.batch.canonical_BHWC
    rows = devices.number(devices.DATA)
    if rows > 1 and canonical_BHWC.shape[0] % R1_STRIDE:
      raise types.InputError(
        f"The remedy r1 looks at every {R1_STRIDE}th canonical image, so that "
        f"a batch over {rows} rows of devices must be a multiple of "
        f"{R1_STRIDE * rows}; got {rows * canonical_BHWC.shape[0]}."
      )
    seen_BHWC = devices.share(canonical_BHWC[::R1_STRIDE])
    return objective + weight * penalty(score, discriminator, seen_BHWC)

  return types.Remedy("r1", objective=objective)


def penalty(
  score: Score, discriminator: types.PyTree, x_BHWC: jax.Array
) -> jax.Array:
  """Returns half of the squared slope, averaged over images; a scalar.

  Args:
    score: scores of images, see `slope`.
    discriminator: parameters of the discriminator.
    x_BHWC: float32 in [0, 1], images.
  """
  return 0.5 * jnp.mean(slope(score, discriminator, x_BHWC) ** 2)


def slope(
  score: Score, discriminator: types.PyTree, x_BHWC: jax.Array
) -> jax.Array:
  """Returns the length of a score's gradient at each image, [B].

  The length is a finite difference of two scores along the gradient's
  direction, which is held fixed. Its derivative with respect to the parameters
  therefore needs no second derivatives of the discriminator, which would cost
  more. Holding the direction fixed changes nothing to first order, because the
  slope is largest in that direction.

  Args:
    score: function from parameters and images to scores, [B]; each score
      depends on its own image only.
    discriminator: parameters of the discriminator.
    x_BHWC: float32 in [0, 1], images; no gradient flows into them.
  """
  fixed, x_BHWC = jax.lax.stop_gradient((discriminator, x_BHWC))
  gradient_BHWC = jax.grad(lambda x_BHWC: score(fixed, x_BHWC).sum())(x_BHWC)
  length_B111 = jnp.sqrt(
    jnp.sum(gradient_BHWC**2, axis=(1, 2, 3), keepdims=True)
  )
  step_BHWC = _STEP * gradient_BHWC / jnp.maximum(length_B111, 1e-12)
  # One call for both sides, because each call reads all parameters.
  sides_BHWC = jnp.concatenate([x_BHWC + step_BHWC, x_BHWC - step_BHWC])
  above_B, below_B = jnp.split(score(discriminator, sides_BHWC), 2)
  return (above_B - below_B) / (2 * _STEP)
