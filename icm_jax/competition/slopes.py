"""Penalties on the discriminator's slope in the pixels of its images.

A discriminator that has seen few images soon tells them all, and is then steep
where experts need it to be smooth.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from icm_jax import types

# Length of the step to either side, over all pixels of an image: short enough
# that a score is straight there, and of the digits of float32 it leaves four.
_STEP = 0.02

# R1 looks at one canonical image in so many: three times through D for each
# would make an update 16 % longer, and a quarter of them steadies D as well.
R1_STRIDE = 4

Score = Callable[[types.PyTree, jax.Array], jax.Array]


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


def r1(
  score: Score, discriminator: types.PyTree, canonical_BHWC: jax.Array
) -> jax.Array:
  """Half of the squared slope at canonical images (Mescheder et al. 2018).

  Args:
    score: as for `slope`.
    discriminator: parameters.
    canonical_BHWC: images of a batch, of which every `R1_STRIDE`-th counts.

  Returns:
    The mean over those, a scalar.
  """
  seen_BHWC = canonical_BHWC[::R1_STRIDE]
  return 0.5 * jnp.mean(slope(score, discriminator, seen_BHWC) ** 2)


def interpolated(
  key: jax.Array,
  score: Score,
  discriminator: types.PyTree,
  canonical_BHWC: jax.Array,
  output_BHWC: jax.Array,
) -> jax.Array:
  """Squared difference of the slope from 1 between images, the mean of all.

  Gulrajani et al. 2017.

  Args:
    key: consumed.
    score: as for `slope`.
    discriminator: parameters.
    canonical_BHWC: one end.
    output_BHWC: the other end.
  """
  part_B111 = jax.random.uniform(key, (canonical_BHWC.shape[0], 1, 1, 1))
  between_BHWC = output_BHWC + part_B111 * (canonical_BHWC - output_BHWC)
  return jnp.mean((slope(score, discriminator, between_BHWC) - 1.0) ** 2)
