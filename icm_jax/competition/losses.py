"""Losses: binary cross entropy of scores, and the error of a reconstruction."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def expert_loss(score: jax.Array) -> jax.Array:
  """Loss of a winner, -log D(y), elementwise in nats (Eq. 2 of the paper).

  The non-saturating form: its gradient does not vanish where the discriminator
  is sure of itself.

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
    weight_EB: of each output; those of one image sum to 1. They are 1 / E in
      the paper.
  """
  canonical_loss_B = jax.nn.softplus(-canonical_B)
  output_loss_B = jnp.sum(weight_EB * jax.nn.softplus(score_EB), axis=0)
  return jnp.mean(canonical_loss_B + output_loss_B)


def slope_ratio(score: jax.Array, weight: jax.Array) -> jax.Array:
  """Ratio of the experts' to the discriminator's loss gradient, elementwise.

  Both losses see an output through its score alone, so that their gradients in
  its pixels, and in everything before these, differ by this factor. It is
  negative: the discriminator wants the score to fall.

  Args:
    score: logits of outputs.
    weight: of these outputs in the discriminator's loss; not 0.
  """
  # Below -60 the gradient of D's loss is next to the smallest float.
  return -jnp.exp(-jnp.maximum(score, -60.0)) / weight


def reconstruction_loss(y_BHWC: jax.Array, target_BHWC: jax.Array) -> jax.Array:
  """Mean squared error per image, [B] float32, in squared pixel ranges."""
  difference_BHWC = y_BHWC.astype(jnp.float32) - target_BHWC.astype(jnp.float32)
  return jnp.mean(difference_BHWC**2, axis=(1, 2, 3))
