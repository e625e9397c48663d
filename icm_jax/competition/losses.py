"""Losses: binary cross entropy of scores, and the error of a reconstruction."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def expert_loss(score: jax.Array) -> jax.Array:
  """Loss of a winner, -log D(y), elementwise in nats (Eq. 2 of the paper).

  This is the non-saturating form, whose gradient does not vanish where the
  discriminator is certain.

  Args:
    score: logits of the discriminator.
  """
  return jax.nn.softplus(-score)


def discriminator_loss(
  score_EB: jax.Array, canonical_B: jax.Array, weight_EB: jax.Array
) -> jax.Array:
  """Loss of the discriminator, a scalar in nats (Eq. 1 of the paper).

  Args:
    score_EB: logits of all experts' outputs.
    canonical_B: logits of canonical images.
    weight_EB: weight of each output; the weights of one image sum to 1. They
      are 1 / E in the paper.
  """
  canonical_loss_B = jax.nn.softplus(-canonical_B)
  output_loss_B = jnp.sum(weight_EB * jax.nn.softplus(score_EB), axis=0)
  return jnp.mean(canonical_loss_B + output_loss_B)


def slope_ratio(score: jax.Array, weight: jax.Array) -> jax.Array:
  """Ratio of the experts' to the discriminator's loss gradient, elementwise.

  Both losses depend on an output through its score alone, so that their
  gradients with respect to the pixels of the output differ by this factor. It
  is negative, because the discriminator lowers the score and experts raise it.

  Args:
    score: logits of outputs.
    weight: weights of these outputs in the discriminator's loss; not 0.
  """
  # At scores below -60 the gradient of the discriminator's loss comes near the
  # smallest float.
  return -jnp.exp(-jnp.maximum(score, -60.0)) / weight


def reconstruction_loss(y_BHWC: jax.Array, target_BHWC: jax.Array) -> jax.Array:
  """Mean squared error per image, [B] float32, in squared units of [0, 1].

  Args:
    y_BHWC: float in [0, 1], reconstructions.
    target_BHWC: float in [0, 1], images that they should equal.
  """
  difference_BHWC = y_BHWC.astype(jnp.float32) - target_BHWC.astype(jnp.float32)
  return jnp.mean(difference_BHWC**2, axis=(1, 2, 3))
