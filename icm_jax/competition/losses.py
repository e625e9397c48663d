"""Losses per example; the caller reduces. Each differentiates its first."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def expert_loss(score_B: jax.Array) -> jax.Array:
  """-log D of the winners' outputs, from logits, [B] (Eq. 2 of the paper).

  The non-saturating form: its gradient does not vanish where D is sure.
  """
  return jax.nn.softplus(-score_B)


def discriminator_loss(
  canonical_B: jax.Array, score_EB: jax.Array
) -> jax.Array:
  """Binary cross entropy of D, from logits, [B] (Eq. 1 of the paper).

  Args:
    canonical_B: logits of canonical images, whose target is 1.
    score_EB: logits of all experts' outputs, whose target is 0; the experts
      share the weight of one canonical image.
  """
  return jax.nn.softplus(-canonical_B) + jax.nn.softplus(score_EB).mean(axis=0)


def reconstruction_loss(y_BHWC: jax.Array, target_BHWC: jax.Array) -> jax.Array:
  """Mean squared error per image, [B], in squared units of the pixel range."""
  return jnp.mean((y_BHWC - target_BHWC) ** 2, axis=(1, 2, 3))
