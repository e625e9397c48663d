"""Losses per example; the caller reduces."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from icm_jax import types


class AdversarialLoss(NamedTuple):
  """What discriminator and winners make of a score; elementwise functions.

  Attributes:
    canonical: loss of D from the score of a canonical image.
    output: loss of D from the score of an expert's output.
    winner: loss of an expert from the score of an output with which it won.
    slope_ratio: the slope of `winner` as a multiple of that of `output`, as a
      function of the score; None where there is none, for the latter may be
      zero where the former is not.
    interpolated: weight of the penalty on slopes of D other than 1 between
      outputs and canonical images (`competition.slopes`).
  """

  canonical: Callable[[jax.Array], jax.Array]
  output: Callable[[jax.Array], jax.Array]
  winner: Callable[[jax.Array], jax.Array]
  slope_ratio: Callable[[jax.Array], jax.Array] | None = None
  interpolated: float = 0.0


def _bce_ratio(score):
  # Below -60 the slope of D's loss is next to the smallest float.
  return -jnp.exp(-jnp.maximum(score, -60.0))


# bce: binary cross entropy of logits, the paper's Eq. 1 and 2, in the
#   non-saturating form, whose gradient does not vanish where D is sure.
# lsgan: least squares, Mao et al. 2017.
# hinge: Lim and Ye 2017.
# wgan-gp: Gulrajani et al. 2017, with the penalty's weight of 10.
LOSSES: dict[str, AdversarialLoss] = {
  "bce": AdversarialLoss(
    canonical=lambda score: jax.nn.softplus(-score),
    output=jax.nn.softplus,
    winner=lambda score: jax.nn.softplus(-score),
    slope_ratio=_bce_ratio,
  ),
  "lsgan": AdversarialLoss(
    canonical=lambda score: 0.5 * (score - 1.0) ** 2,
    output=lambda score: 0.5 * score**2,
    winner=lambda score: 0.5 * (score - 1.0) ** 2,
  ),
  "hinge": AdversarialLoss(
    canonical=lambda score: jax.nn.relu(1.0 - score),
    output=lambda score: jax.nn.relu(1.0 + score),
    winner=lambda score: -score,
  ),
  "wgan-gp": AdversarialLoss(
    canonical=lambda score: -score,
    output=lambda score: score,
    winner=lambda score: -score,
    slope_ratio=lambda score: -jnp.ones_like(score),
    interpolated=10.0,
  ),
}


def by_name(name: str) -> AdversarialLoss:
  """Looks a loss up.

  Raises:
    InputError: names those that are known.
  """
  if name not in LOSSES:
    raise types.InputError(
      f"The loss must be one of {', '.join(LOSSES)}; got {name!r}."
    )
  return LOSSES[name]


def discriminator_loss(
  score_EB: jax.Array,
  canonical_B: jax.Array,
  winner_B: jax.Array,
  *,
  winner_weight: float = 0.0,
  loss: AdversarialLoss = LOSSES["bce"],
) -> jax.Array:
  """Loss of D, [B] (Eq. 1 of the paper).

  Args:
    score_EB: scores of all experts' outputs.
    canonical_B: scores of canonical images.
    winner_B: int32 in [0, E).
    winner_weight: all outputs of an image weigh together as one canonical
      image; this share of it goes to the winner's alone, the rest to all
      experts equally. 0 is the paper's loss, in which the one output that
      competes with canonical images has a weight of 1 / E.
    loss: of a score.
  """
  fake_EB = loss.output(score_EB)
  won_B = fake_EB[winner_B, jnp.arange(winner_B.shape[0])]
  fake_B = (1.0 - winner_weight) * fake_EB.mean(axis=0) + winner_weight * won_B
  return loss.canonical(canonical_B) + fake_B


def expert_to_discriminator_slope(
  score_B: jax.Array,
  num_experts: int,
  *,
  winner_weight: float = 0.0,
  loss: AdversarialLoss = LOSSES["bce"],
) -> jax.Array:
  """How many times the slope of D's loss that of the experts' loss is.

  Both losses see a winner's output through its score alone, so that their
  gradients in its pixels, and in all before these, differ by this factor. It is
  negative, for D wants the score to fall.

  Args:
    score_B: scores of the winners' outputs.
    num_experts: E.
    winner_weight: as for `discriminator_loss`.
    loss: of a score; has a `slope_ratio`.
  """
  weight = (1.0 - winner_weight) / num_experts + winner_weight
  return loss.slope_ratio(score_B) / weight


def reconstruction_loss(y_BHWC: jax.Array, target_BHWC: jax.Array) -> jax.Array:
  """Mean squared error per image, [B], in squared units of the pixel range."""
  return jnp.mean((y_BHWC - target_BHWC) ** 2, axis=(1, 2, 3))
