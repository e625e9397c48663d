"""Idle experts are moved to where the work is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from icm_jax import rng, types
from icm_jax.competition import expert_axis


def donors(
  win_share_E: jax.Array, relocation: types.Relocation
) -> tuple[jax.Array, jax.Array]:
  """Says which experts are idle and whom each should be copied from.

  The first idle expert gets the busiest expert, the second the second busiest,
  and so on, as long as these won more than `max_share` of an equal share: an
  expert that has one mechanism only is left alone.

  Args:
    win_share_E: float, share of recent images; sums to 1.
    relocation: thresholds.

  Returns:
    moved_E, bool, and donor_E, int32 in [0, E), which counts where moved.
  """
  multiple_E = win_share_E * win_share_E.shape[0]
  idle_E = multiple_E < relocation.min_share
  busiest_first_E = jnp.argsort(-win_share_E)
  rank_E = jnp.where(idle_E, jnp.cumsum(idle_E) - 1, 0)
  donor_E = busiest_first_E[rank_E]
  moved_E = idle_E & (multiple_E[donor_E] > relocation.max_share)
  return moved_E, donor_E


def relocate(
  state: types.TrainState,
  tx: optax.GradientTransformation,
  relocation: types.Relocation,
) -> tuple[types.TrainState, jax.Array]:
  """Moves idle experts, if it is time.

  A moved expert becomes a copy of a busy one, slightly perturbed so that the
  two part, with a fresh optimizer state. Everything else stays bit-identical.

  Args:
    state: after the update of its step.
    tx: optimizer of one expert.
    relocation: `every` must be at least 1.

  Returns:
    The state, and moved_E, bool.
  """
  due = state.step % relocation.every == 0
  moved_E, donor_E = donors(state.win_share_E, relocation)
  moved_E = moved_E & due
  key = rng.stream(state.key, "relocate", state.step)

  # One draw for all parameters, for every draw adds to the time of compiling.
  leaves, structure = jax.tree.flatten(state.experts_E)
  sizes = [leaf[0].size for leaf in leaves]
  noise_E = jax.random.normal(key, (moved_E.shape[0], sum(sizes)))

  def perturbed(a_E, noise_E):
    copy_E = a_E[donor_E]
    axes = tuple(range(1, a_E.ndim))
    scale_E = jnp.sqrt(jnp.mean(copy_E**2, axis=axes, keepdims=True))
    return copy_E + (
      relocation.perturbation * scale_E * noise_E.reshape(a_E.shape)
    )

  noises_E = jnp.split(noise_E, np.cumsum(sizes)[:-1], axis=1)
  copies_E = jax.tree.unflatten(structure, map(perturbed, leaves, noises_E))
  stats_E = jax.tree.map(lambda a_E: a_E[donor_E], state.expert_stats_E)
  state = state.replace(
    experts_E=expert_axis.select(moved_E, copies_E, state.experts_E),
    expert_stats_E=expert_axis.select(moved_E, stats_E, state.expert_stats_E),
    expert_opt_E=expert_axis.select(
      moved_E, jax.vmap(tx.init)(copies_E), state.expert_opt_E
    ),
  )
  return state, moved_E
