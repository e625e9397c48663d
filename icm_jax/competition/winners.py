"""The experts' gradient: a backward pass over won images only, or over all."""

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
  first_group_E = jnp.cumsum(groups_E) - groups_E
  won_BE = jax.nn.one_hot(winner_B, num_experts, dtype=jnp.int32)
  rank_B = jnp.sum((jnp.cumsum(won_BE, axis=0) - 1) * won_BE, axis=1)
  slot_B = first_group_E[winner_B] * size + rank_B
  image_GS = jnp.full(num_groups * size, num_images, jnp.int32)
  image_GS = image_GS.at[slot_B].set(jnp.arange(num_images, dtype=jnp.int32))
  expert_G = jnp.zeros(num_groups, jnp.int32)
  expert_G = expert_G.at[slot_B // size].set(winner_B)
  return Groups(expert_G, image_GS.reshape(num_groups, size))


def output_gradient(
  score: Callable[[jax.Array], jax.Array],
  loss: Callable[[jax.Array], jax.Array],
  y_BHWC: jax.Array,
) -> jax.Array:
  """Gradient of the experts' mean loss in the outputs that they learn from.

  Args:
    score: images to scores, [B].
    loss: of a score, elementwise.
    y_BHWC: outputs; or those of all experts, [E, B, H, W, C], whose losses are
      summed over the experts.
  """
  num_images, shape_HWC = y_BHWC.shape[-4], y_BHWC.shape[-3:]
  flat_BHWC = y_BHWC.reshape(-1, *shape_HWC)

  def objective(flat_BHWC):
    return loss(score(flat_BHWC)).sum() / num_images

  return jax.grad(objective)(flat_BHWC).reshape(y_BHWC.shape)


class Restored(NamedTuple):
  """What all experts make of all images.

  Attributes:
    y_EBHWC: outputs.
    stats_E: running statistics after them.
    pullback: from gradients in all outputs to those of the experts; None where
      experts learn from the outputs with which they won only.
  """

  y_EBHWC: jax.Array
  stats_E: types.PyTree
  pullback: Callable[[jax.Array], types.PyTree] | None


def restore(
  expert: types.Network,
  experts_E: types.PyTree,
  stats_E: types.PyTree,
  x_BHWC: jax.Array,
  *,
  losers_learn: bool,
  mode: str,
) -> Restored:
  """Applies every expert to every image.

  Args:
    expert: the network of all experts.
    experts_E: their parameters.
    stats_E: their running statistics. If there are any, an output depends on
      the whole batch, and so does the gradient of an expert that won little.
    x_BHWC: images.
    losers_learn: whether experts learn from all outputs.
    mode: see `expert_axis.map_leading`.
  """

  def all_outputs(experts_E):
    apply = functools.partial(expert.apply, train=True)
    over = expert_axis.map_leading(apply, (0, 0, None), mode=mode)
    return over(experts_E, stats_E, x_BHWC)

  if not losers_learn and not jax.tree.leaves(stats_E):
    return Restored(*all_outputs(experts_E), None)
  y_EBHWC, pull, stats_E = jax.vjp(all_outputs, experts_E, has_aux=True)
  return Restored(y_EBHWC, stats_E, lambda cotangent: pull(cotangent)[0])


def winners_gradient(
  expert: types.Network,
  experts_E: types.PyTree,
  stats_E: types.PyTree,
  x_BHWC: jax.Array,
  cotangent_BHWC: jax.Array,
  winner_B: jax.Array,
  wins_E: jax.Array,
  *,
  mode: str,
  pullback: Callable[[jax.Array], types.PyTree] | None,
) -> types.PyTree:
  """Gradient of the experts through the outputs with which they won.

  Args:
    expert: the network of all experts.
    experts_E: their parameters.
    stats_E: their running statistics.
    x_BHWC: images.
    cotangent_BHWC: gradient of the loss in the winning output of each image.
    winner_B: int32 in [0, E).
    wins_E: int32, images won by each expert.
    mode: see `expert_axis.map_leading`.
    pullback: as of `Restored`. Where there is none, the backward pass runs
      over the images that an expert won only, which is several times less.

  Returns:
    Gradients with the structure of `experts_E`; zero where nothing was won.
  """
  if pullback:
    won_EB = winner_B[None, :] == jnp.arange(wins_E.shape[0])[:, None]
    return pullback(
      jnp.where(won_EB[:, :, None, None, None], cotangent_BHWC[None], 0.0)
    )

  apply = functools.partial(expert.apply, train=True)
  mode = expert_axis.resolve(
    mode, apply, (0, 0, None), experts_E, stats_E, x_BHWC
  )
  groups = group_by_winner(winner_B, wins_E, size=GROUP_SIZE[mode])

  def one_group(expert_id, image_S):
    params = jax.tree.map(lambda a_E: a_E[expert_id], experts_E)
    x_SHWC = x_BHWC.at[image_S].get(mode="fill", fill_value=0.0)
    cotangent_SHWC = cotangent_BHWC.at[image_S].get(mode="fill", fill_value=0.0)
    output = lambda params: apply(params, stats_E, x_SHWC)[0]
    return jax.vjp(output, params)[1](cotangent_SHWC)[0]

  grads_G = expert_axis.map_leading(one_group, (0, 0), mode=mode)(*groups)
  sum_by_expert = functools.partial(
    jax.ops.segment_sum,
    segment_ids=groups.expert_G,
    num_segments=wins_E.shape[0],
  )
  return jax.tree.map(sum_by_expert, grads_G)
