"""Losses per example; the caller reduces."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def expert_loss(score_B: jax.Array) -> jax.Array:
  """-log D of the winners' outputs, from logits, [B] (Eq. 2 of the paper).

  The non-saturating form: its gradient does not vanish where D is sure.
  """
  return jax.nn.softplus(-score_B)


def discriminator_loss(
  score_EB: jax.Array,
  canonical_B: jax.Array,
  winner_B: jax.Array,
  *,
  winner_weight: float = 0.0,
) -> jax.Array:
  """Binary cross entropy of D, from logits, [B] (Eq. 1 of the paper).

  Args:
    score_EB: logits of all experts' outputs, whose target is 0.
    canonical_B: logits of canonical images, whose target is 1.
    winner_B: int32 in [0, E).
    winner_weight: all outputs of an image weigh together as one canonical
      image; this share of it goes to the winner's alone, the rest to all
      experts equally. 0 is the paper's loss, in which the one output that
      competes with canonical images has a weight of 1 / E.
  """
  fake_EB = jax.nn.softplus(score_EB)
  won_B = fake_EB[winner_B, jnp.arange(winner_B.shape[0])]
  fake_B = (1.0 - winner_weight) * fake_EB.mean(axis=0) + winner_weight * won_B
  return jax.nn.softplus(-canonical_B) + fake_B


def expert_to_discriminator_slope(
  score_B: jax.Array, num_experts: int, *, winner_weight: float = 0.0
) -> jax.Array:
  """How many times the slope of D's loss that of the experts' loss is.

  Both losses see a winner's output through its score alone, so that their
  gradients in its pixels, and in all before these, differ by this factor. It is
  negative, for D wants the score to fall. Below a score of -60, where the slope
  of D's loss is next to the smallest float, the factor is that of -60.

  Args:
    score_B: logits of the winners' outputs.
    num_experts: E.
    winner_weight: as for `discriminator_loss`.
  """
  weight = (1.0 - winner_weight) / num_experts + winner_weight
  return -jnp.exp(-jnp.maximum(score_B, -60.0)) / weight


def reconstruction_loss(y_BHWC: jax.Array, target_BHWC: jax.Array) -> jax.Array:
  """Mean squared error per image, [B], in squared units of the pixel range."""
  return jnp.mean((y_BHWC - target_BHWC) ** 2, axis=(1, 2, 3))
