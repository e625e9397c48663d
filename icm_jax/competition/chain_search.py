"""Chains of experts, for images that several mechanisms distorted in a row.

The discriminator selects the expert at every step, and decides when to stop;
the empty chain is a gate that leaves clean images alone. The paper names this
as an extension, without numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import competition, types

NONE = -1  # Fills a chain after its end.


class Chains(NamedTuple):
  """Images after their best chains of at most L experts.

  Attributes:
    restored_BHWC: float32 in [0, 1].
    score_B: float32 logits of the discriminator.
    length_B: int32 in [0, L], number of experts that were applied.
    expert_BL: int32 in [0, E), experts in the order of application; `NONE`
      after the end.
  """

  restored_BHWC: jax.Array
  score_B: jax.Array
  length_B: jax.Array
  expert_BL: jax.Array


class _Beam(NamedTuple):
  """The K best chains of one length, best first; score -inf is no chain."""

  image_KBHWC: jax.Array
  score_KB: jax.Array
  expert_KBL: jax.Array


def search(
  state: types.TrainState,
  x_BHWC: jax.Array,
  *,
  setup: types.Setup,
  max_length: int,
  width: int,
  margin: float,
) -> Chains:
  """Searches for the chain of experts whose output looks most canonical.

  This is a beam search; a width of 1 is greedy. Scores along a chain may fall:
  an image need not look more canonical when one of two distortions is undone.

  Args:
    state: state of a run; not donated.
    x_BHWC: float32 in [0, 1].
    setup: setup of the run, bound before jitting, like all arguments below.
    max_length: L, the largest length of a chain, at least 1.
    width: K, the number of chains that are kept.
    margin: logits by which every further expert must raise the score, see
      `margin`; images that gain less are left alone.
  """
  num_images = x_BHWC.shape[0]
  image_B = jnp.arange(num_images)
  score_B = competition.score(state, x_BHWC, setup=setup)
  none_BL = jnp.full((num_images, max_length), NONE, jnp.int32)
  is_first_KB = jnp.arange(width)[:, None] == jnp.zeros((1, num_images), int)
  start = _Beam(
    jnp.broadcast_to(x_BHWC[None], (width, *x_BHWC.shape)),
    jnp.where(is_first_KB, score_B[None], -jnp.inf),
    jnp.broadcast_to(none_BL[None], (width, *none_BL.shape)),
  )
  best = Chains(x_BHWC, score_B, jnp.zeros(num_images, jnp.int32), none_BL)

  def extend(carry, length):
    beam, best = carry
    restored = competition.restore(
      state, beam.image_KBHWC.reshape(-1, *x_BHWC.shape[1:]), setup=setup
    )
    num_experts = restored.score_EB.shape[0]
    score_EKB = restored.score_EB.reshape(num_experts, width, num_images)
    # Extensions of a missing chain are missing too.
    score_EKB = jnp.where(beam.score_KB[None] == -jnp.inf, -jnp.inf, score_EKB)
    score_BK, choice_BK = jax.lax.top_k(
      score_EKB.reshape(num_experts * width, num_images).T, width
    )
    expert_KB, parent_KB = jnp.divmod(choice_BK.T.astype(jnp.int32), width)
    output_EKBHWC = restored.output_EBHWC.reshape(
      num_experts, width, *x_BHWC.shape
    )
    expert_KBL = beam.expert_KBL[parent_KB, image_B[None]]
    beam = _Beam(
      output_EKBHWC[expert_KB, parent_KB, image_B[None]],
      score_BK.T,
      expert_KBL.at[:, :, length - 1].set(expert_KB),
    )
    found = Chains(
      beam.image_KBHWC[0],
      beam.score_KB[0],
      jnp.full(num_images, length, jnp.int32),
      beam.expert_KBL[0],
    )
    price_B = margin * (length - best.length_B)
    better_B = found.score_B > best.score_B + price_B
    best = jax.tree.map(
      lambda new, old: jnp.where(
        better_B.reshape(-1, *[1] * (new.ndim - 1)), new, old
      ),
      found,
      best,
    )
    return (beam, best), None

  lengths = jnp.arange(1, max_length + 1, dtype=jnp.int32)
  (_, best), _ = jax.lax.scan(extend, (start, best), lengths)
  return best


def margin(gain_N: np.ndarray, *, changed: float) -> float:
  """The gain in score below which an image is left alone; logits, at least 0.

  Args:
    gain_N: logits by which the best expert raises the scores of clean images.
    changed: share of clean images that may be changed, in [0, 1].
  """
  return max(0.0, float(np.quantile(gain_N, 1.0 - changed)))
