"""Idle experts are moved to where the work is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from icm_jax import rng, types
from icm_jax.competition import expert_axis, signature

# Relocations for which a moved expert is not compared with others.
_GRACE = 3


def idle(state: types.TrainState, relocation: types.Relocation) -> jax.Array:
  """Which experts have no work of their own, [E] bool.

  Those that won less than `min_share` of an equal share, those that have
  retired, and one that can be spared: another wins images of the same kind, as
  their signatures tell. Of several, it is the one that wins least. An expert
  that was moved lately is not compared: it needs time to part from whom it was
  copied.

  Args:
    state: after the update of its step.
    relocation: thresholds.
  """
  share_E = state.win_share_E
  idle_E = state.retired_E | (
    share_E * jnp.sum(~state.retired_E) < relocation.min_share
  )
  if not relocation.alike:
    return idle_E
  is_new_E = state.step - state.moved_step_E < _GRACE * relocation.every
  compared_E = ~(idle_E | is_new_E)
  distance_EE = signature.distance(state.signature_EE, ~state.retired_E)
  is_alike_EE = (
    (distance_EE < relocation.alike)
    & (compared_E[:, None] & compared_E[None])
    & ~jnp.eye(share_E.shape[0], dtype=bool)
  )
  has_alike_E = is_alike_EE.any(axis=1)
  spared = jnp.argmin(jnp.where(has_alike_E, share_E, jnp.inf))
  return idle_E.at[spared].set(idle_E[spared] | has_alike_E[spared])


def donors(
  win_share_E: jax.Array, idle_E: jax.Array, relocation: types.Relocation
) -> tuple[jax.Array, jax.Array]:
  """Says which idle experts are moved and whom each is copied from.

  The first idle expert gets the busiest expert, the second the second busiest,
  and so on, as long as these won more than `max_share` times the usual: an
  expert that has one mechanism only is left alone. The usual is an equal share
  of all experts; where experts may retire, so that there may be more of them
  than mechanisms, it is the median share of those who are not idle.

  Args:
    win_share_E: float, share of recent images; sums to 1.
    idle_E: bool.
    relocation: thresholds.

  Returns:
    moved_E, bool, and donor_E, int32 in [0, E), which counts where moved.
  """
  busy_E = jnp.where(idle_E, 0.0, win_share_E)
  usual = 1.0 / win_share_E.shape[0]
  if relocation.alike:
    # Of two in the middle the lower one: one of two experts may have twice as
    # many mechanisms as the other.
    num_idle = jnp.sum(idle_E)
    middle = (win_share_E.shape[0] - num_idle - 1) // 2
    usual = jnp.sort(busy_E)[num_idle + middle]
  busiest_first_E = jnp.argsort(-busy_E)
  rank_E = jnp.where(idle_E, jnp.cumsum(idle_E) - 1, 0)
  donor_E = busiest_first_E[rank_E]
  moved_E = idle_E & (busy_E[donor_E] > relocation.max_share * usual)
  return moved_E, donor_E


def relocate(
  state: types.TrainState,
  tx: optax.GradientTransformation,
  relocation: types.Relocation,
) -> tuple[types.TrainState, jax.Array]:
  """Moves idle experts, if it is time.

  A moved expert becomes a copy of a busy one, slightly perturbed so that the
  two part, with a fresh optimizer state. If `alike` is not 0, idle experts
  that are not moved retire, until they are. Everything else stays
  bit-identical.

  Args:
    state: after the update of its step.
    tx: optimizer of one expert.
    relocation: `every` must be at least 1.

  Returns:
    The state, and moved_E, bool.
  """
  due = state.step % relocation.every == 0
  idle_E = idle(state, relocation)
  moved_E, donor_E = donors(state.win_share_E, idle_E, relocation)
  moved_E = moved_E & due
  retired_E = state.retired_E & ~moved_E
  if relocation.alike:
    retired_E = jnp.where(due, idle_E & ~moved_E, retired_E)
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
    signature_EE=signature.move(state.signature_EE, moved_E, donor_E),
    moved_step_E=jnp.where(moved_E, state.step, state.moved_step_E),
    retired_E=retired_E,
  )
  return state, moved_E
