"""Experts and discriminator applied, and the experts' gradient.

The backward pass runs over won images only where outputs do not depend on the
batch, which is several times less than over all experts' outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.competition import expert_axis

# Images a group, by mode. Of unrolled groups, fewer images mean more, smaller
# convolutions; more mean more empty slots, for each expert's last group is
# seldom full. Mapped ones are one operation whatever their number.
GROUP_SIZE = {"unroll": 4, "vmap": 1}


class Groups(NamedTuple):
  """A batch in groups of images that one expert won; some slots are empty.

  Attributes:
    expert_G: int32 in [0, E), the winner of a group's images.
    image_GS: int32 in [0, B], an image's index in the batch; B is no image.
  """

  expert_G: jax.Array
  image_GS: jax.Array


def group_by_winner(
  winner_B: jax.Array, wins_E: jax.Array, *, size: int
) -> Groups:
  """Sorts a batch into groups of `size` images with the same winner.

  The number of groups is the most that any assignment can need, so that shapes
  do not depend on who won.

  Args:
    winner_B: int32 in [0, E).
    wins_E: int32, images won by each expert.
    size: slots of a group.

  Returns:
    The groups; every image stands in exactly one slot.
  """
  num_images, num_experts = winner_B.shape[0], wins_E.shape[0]
  most_winners = min(num_images, num_experts)
  num_groups = (num_images + most_winners * (size - 1)) // size
  groups_E = (wins_E + size - 1) // size
  first_group_E = jnp.cumsum(groups_E, dtype=jnp.int32) - groups_E
  won_BE = jax.nn.one_hot(winner_B, num_experts, dtype=jnp.int32)
  before_BE = jnp.cumsum(won_BE, axis=0, dtype=jnp.int32) - 1
  rank_B = jnp.sum(before_BE * won_BE, axis=1, dtype=jnp.int32)
  slot_B = first_group_E[winner_B] * size + rank_B
  image_GS = jnp.full(num_groups * size, num_images, jnp.int32)
  image_GS = image_GS.at[slot_B].set(jnp.arange(num_images, dtype=jnp.int32))
  expert_G = jnp.zeros(num_groups, jnp.int32)
  expert_G = expert_G.at[slot_B // size].set(winner_B)
  return Groups(expert_G, image_GS.reshape(num_groups, size))


def score(
  setup: types.Setup,
  discriminator: types.PyTree,
  x_BHWC: jax.Array,
  *,
  train: bool = True,
) -> jax.Array:
  """Logits of a discriminator, [B] float32 whatever its own dtype."""
  apply = setup.discriminator.apply
  score_B, _ = apply(discriminator, {}, x_BHWC, train=train)
  return score_B.astype(jnp.float32)


class Outputs(NamedTuple):
  """What all experts make of all images.

  Attributes:
    y_EBHWC: outputs.
    stats_E: running statistics after them.
    pullback: from gradients in all outputs to those of the experts; None where
      experts learn only from the outputs with which they won.
  """

  y_EBHWC: jax.Array
  stats_E: types.PyTree
  pullback: Callable[[jax.Array], types.PyTree] | None


def apply_experts(
  state: types.TrainState, x_BHWC: jax.Array, *, setup: types.Setup
) -> Outputs:
  """Applies every expert to every image, in training.

  Where experts have running statistics, an output depends on the whole batch,
  and so does the gradient of an expert that won little.
  """

  def all_outputs(experts_E):
    apply = functools.partial(setup.expert.apply, train=True)
    over = expert_axis.map_leading(apply, (0, 0, None), mode=setup.expert_map)
    return over(experts_E, state.expert_stats_E, x_BHWC)

  if not setup.losers_learn and not jax.tree.leaves(state.expert_stats_E):
    y_EBHWC, stats_E = all_outputs(state.experts_E)
    return Outputs(y_EBHWC, stats_E, None)
  y_EBHWC, pull, stats_E = jax.vjp(all_outputs, state.experts_E, has_aux=True)
  return Outputs(y_EBHWC, stats_E, lambda cotangent: pull(cotangent)[0])


class Learners(NamedTuple):
  """Who learns from what.

  Attributes:
    chosen: picks from [E, B, ...] the outputs that experts learn from: [B, ...]
      of the winners', or all.
    learning_E: bool, experts that move; the others stay bit-identical.
  """

  chosen: tuple[jax.Array | slice, ...]
  learning_E: jax.Array


def learners(won: types.Assignment, setup: types.Setup) -> Learners:
  """Winners, and their images; or everybody, and everything."""
  if setup.losers_learn:
    return Learners((slice(None),), jnp.ones_like(won.wins_E, bool))
  images_B = jnp.arange(won.winner_B.shape[0])
  return Learners((won.winner_B, images_B), won.wins_E > 0)


def scale_images(x: jax.Array, factor: jax.Array) -> jax.Array:
  """Images times a float32 factor each, in their own dtype."""
  factor = factor[..., None, None, None]
  return (factor * x.astype(factor.dtype)).astype(x.dtype)


def experts_gradient(
  state: types.TrainState,
  x_BHWC: jax.Array,
  outputs: Outputs,
  cotangent: jax.Array,
  won: types.Assignment,
  *,
  setup: types.Setup,
) -> types.PyTree:
  """Gradient of the experts through the outputs that they learn from.

  Args:
    state: before the update.
    x_BHWC: images.
    outputs: of `apply_experts` on these images.
    cotangent: gradient of the loss in the outputs that `learners` picks,
      [B, H, W, C] or [E, B, H, W, C].
    won: who won which image.
    setup: of the run.

  Returns:
    Gradients with the structure of `state.experts_E`; zero where an expert
    learns from nothing.
  """
  if setup.losers_learn and outputs.pullback:
    return outputs.pullback(cotangent)
  if outputs.pullback:
    expert_E1 = jnp.arange(won.wins_E.shape[0])[:, None]
    won_EB111 = (won.winner_B[None] == expert_E1)[:, :, None, None, None]
    zero = jnp.zeros((), cotangent.dtype)
    return outputs.pullback(jnp.where(won_EB111, cotangent[None], zero))

  experts_E, stats_E = state.experts_E, state.expert_stats_E
  apply = functools.partial(setup.expert.apply, train=True)
  mode = expert_axis.resolve(
    setup.expert_map, apply, (0, 0, None), experts_E, stats_E, x_BHWC
  )
  groups = group_by_winner(*won, size=GROUP_SIZE[mode])

  def one_group(expert_id, image_S):
    params = jax.tree.map(lambda a_E: a_E[expert_id], experts_E)
    x_SHWC = x_BHWC.at[image_S].get(mode="fill", fill_value=0)
    cotangent_SHWC = cotangent.at[image_S].get(mode="fill", fill_value=0)
    output = lambda params: apply(params, stats_E, x_SHWC)[0]
    return jax.vjp(output, params)[1](cotangent_SHWC)[0]

  grads_G = expert_axis.map_leading(one_group, (0, 0), mode=mode)(*groups)
  sum_by_expert = functools.partial(
    jax.ops.segment_sum,
    segment_ids=groups.expert_G,
    num_segments=won.wins_E.shape[0],
  )
  return jax.tree.map(sum_by_expert, grads_G)
