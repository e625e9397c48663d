"""Outputs of experts, their scores, and the experts' gradient.

Where an output depends on its own image only, the backward pass runs over won
images alone, which costs several times less than over all experts' outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from icm_jax import devices, types
from icm_jax.competition import assign, expert_axis


class Groups(NamedTuple):
  """A batch in groups of images that one expert won; some slots are empty.

  Attributes:
    expert_G: int32 in [0, E), the winner of a group's images.
    image_GS: int32 in [0, B], index of an image in the batch; B marks an empty
      slot.
  """

  expert_G: jax.Array
  image_GS: jax.Array


def group_by_winner(
  winner_B: jax.Array, wins_E: jax.Array, *, size: int
) -> Groups:
  """Sorts a batch into groups of `size` images with the same winner.

  The number of groups is the most that any assignment can need, so that shapes
  do not depend on the assignment.

  Args:
    winner_B: int32 in [0, E), the winner of each image; E leaves it out.
    wins_E: int32, number of images that each expert won.
    size: number of slots of a group.

  Returns:
    The groups; every image with a winner is in exactly one slot.
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
  if devices.number(devices.EXPERT) > 1:  # Otherwise all experts are here.
    slot_B = jnp.where(winner_B < num_experts, slot_B, num_groups * size)
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
  """Returns a discriminator's logits, [B] float32 whatever its own dtype.

  Args:
    setup: setup of the run.
    discriminator: parameters of the discriminator.
    x_BHWC: float in [0, 1], images.
    train: whether the discriminator is applied in training.
  """
  apply = setup.discriminator.apply
  score_B, _ = apply(discriminator, {}, x_BHWC, train=train)
  return score_B.astype(jnp.float32)


class Outputs(NamedTuple):
  """All experts' outputs for all images.

  Attributes:
    y_EBHWC: float in [0, 1], the outputs.
    stats_E: running statistics of the experts after these images.
    pullback: function from the gradient with respect to all outputs to that of
      the experts; None where the backward pass runs over won images only.
  """

  y_EBHWC: jax.Array
  stats_E: types.PyTree
  pullback: Callable[[jax.Array], types.PyTree] | None


def apply_experts(
  state: types.TrainState, x_BHWC: jax.Array, *, setup: types.Setup
) -> Outputs:
  """Applies every expert to every image, in training.

  Where experts have running statistics, an output depends on the whole batch,
  and the result has a pullback over all of it. It has one, too, if
  `setup.expert_map` names a form that is masked.

  Args:
    state: state before the update.
    x_BHWC: float32 in [0, 1], images.
    setup: setup of the run.
  """

  def all_outputs(experts_E):
    apply = functools.partial(setup.expert.apply, train=True)
    over = expert_axis.map_leading(apply, (0, 0, None), mode=setup.expert_map)
    return over(experts_E, state.expert_stats_E, x_BHWC)

  form = expert_axis.FORMS.get(setup.expert_map)
  masked = form is not None and form.masked
  over_all = setup.losers_learn or masked
  if not over_all and not jax.tree.leaves(state.expert_stats_E):
    y_EBHWC, stats_E = all_outputs(state.experts_E)
    return Outputs(y_EBHWC, stats_E, None)
  y_EBHWC, pull, stats_E = jax.vjp(all_outputs, state.experts_E, has_aux=True)
  return Outputs(y_EBHWC, stats_E, lambda cotangent: pull(cotangent)[0])


def winners(won: types.Assignment) -> tuple[jax.Array, jax.Array]:
  """Returns the index into [E, B, ...] of the winners' outputs, [B, ...].

  Where the winner is on another device, the index points to an output of this
  device, from which no expert learns.

  Args:
    won: assignment of the batch.
  """
  winner_B, wins_E = assign.own_part(won)
  images_B = jnp.arange(winner_B.shape[0])
  if devices.number(devices.EXPERT) > 1:
    winner_B = jnp.minimum(winner_B, wins_E.shape[0] - 1)
  return winner_B, images_B


class Learners(NamedTuple):
  """Which experts learn, and from which outputs.

  Attributes:
    chosen: index into [E, B, ...] of the outputs that experts learn from: those
      of `winners`, [B, ...], or all.
    learning_E: bool, experts that move; the others stay bit-identical. These
      are the experts of all devices.
  """

  chosen: tuple[jax.Array | slice, ...]
  learning_E: jax.Array


def learners(won: types.Assignment, setup: types.Setup) -> Learners:
  """Winners learn from the images that they won; with `losers_learn`, all do.

  Args:
    won: assignment of the batch.
    setup: setup of the run.
  """
  if setup.losers_learn:
    return Learners((slice(None),), jnp.ones_like(won.wins_E, bool))
  return Learners(winners(won), won.wins_E > 0)


def scale_images(x: jax.Array, factor: jax.Array) -> jax.Array:
  """Multiplies every image by its float32 factor, in the images' dtype."""
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
  """Computes the experts' gradient through the outputs that they learn from.

  Args:
    state: state before the update.
    x_BHWC: float32 in [0, 1], images.
    outputs: result of `apply_experts` on these images.
    cotangent: gradient of the loss with respect to the outputs that `learners`
      picks, [B, H, W, C] or [E, B, H, W, C].
    won: assignment of the images, those of all devices.
    setup: setup of the run.

  Returns:
    Gradients with the structure of `state.experts_E`; zero where an expert
    learns from nothing. They are of this device's images alone.
  """
  if setup.losers_learn and outputs.pullback:
    return outputs.pullback(cotangent)
  won = assign.own_part(won)
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
  form = expert_axis.FORMS[mode]
  share = -(-x_BHWC.shape[0] // won.wins_E.shape[0])
  groups = group_by_winner(*won, size=form.size or share)

  def one_group(expert_id, image_S):
    params = jax.tree.map(lambda a_E: a_E[expert_id], experts_E)
    x_SHWC = x_BHWC.at[image_S].get(mode="fill", fill_value=0)
    cotangent_SHWC = cotangent.at[image_S].get(mode="fill", fill_value=0)
    output = lambda params: apply(params, stats_E, x_SHWC)[0]
    return jax.vjp(output, params)[1](cotangent_SHWC)[0]

  over = expert_axis.map_leading(one_group, (0, 0), mode=form.experts)
  grads_G = over(*groups)
  sum_by_expert = functools.partial(
    jax.ops.segment_sum,
    segment_ids=groups.expert_G,
    num_segments=won.wins_E.shape[0],
  )
  return jax.tree.map(sum_by_expert, grads_G)
