"""Penalties on the discriminator's slope in the pixels of its images.

A discriminator that has seen few images soon tells them all, and is then steep
where experts need it to be smooth.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Length of the step to either side, over all pixels of an image: of 1,024
# pixels each moves by 0.003, and in float32 a score loses few digits.
_STEP = 0.1


def slope_B(
  score: Callable[[jax.Array], jax.Array], x_BHWC: jax.Array
) -> jax.Array:
  """Length of a score's gradient in the pixels of each image, [B].

  It can be differentiated in what `score` closes over without second
  derivatives, which compiled convolutions do not have: with its direction held
  fixed, the length is a difference of two scores. That it turns as well changes
  nothing to first order, for it is the steepest.

  Args:
    score: images to scores, [B]; each depends on its own image only.
    x_BHWC: images; no gradient flows into them.
  """
  x_BHWC = jax.lax.stop_gradient(x_BHWC)
  gradient_BHWC = jax.grad(lambda x: score(x).sum())(x_BHWC)
  gradient_BHWC = jax.lax.stop_gradient(gradient_BHWC)
  length_B111 = jnp.sqrt(
    jnp.sum(gradient_BHWC**2, axis=(1, 2, 3), keepdims=True)
  )
  step_BHWC = _STEP * gradient_BHWC / jnp.maximum(length_B111, 1e-12)
  return (score(x_BHWC + step_BHWC) - score(x_BHWC - step_BHWC)) / (2 * _STEP)


def r1(
  score: Callable[[jax.Array], jax.Array], canonical_BHWC: jax.Array
) -> jax.Array:
  """Half of the squared slope at canonical images, [B] (Mescheder 2018)."""
  return 0.5 * slope_B(score, canonical_BHWC) ** 2


def interpolated(
  key: jax.Array,
  score: Callable[[jax.Array], jax.Array],
  canonical_BHWC: jax.Array,
  output_BHWC: jax.Array,
) -> jax.Array:
  """Squared difference of the slope from 1 between images, [B].

  Gulrajani et al. 2017.

  Args:
    key: consumed.
    score: as for `slope_B`.
    canonical_BHWC: one end.
    output_BHWC: the other end.
  """
  part_B111 = jax.random.uniform(key, (canonical_BHWC.shape[0], 1, 1, 1))
  between_BHWC = output_BHWC + part_B111 * (canonical_BHWC - output_BHWC)
  return (slope_B(score, between_BHWC) - 1.0) ** 2
