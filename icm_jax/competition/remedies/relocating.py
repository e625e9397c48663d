"""Idle experts are moved to where the work is, or retire."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from icm_jax import rng, types
from icm_jax.competition import expert_axis
from icm_jax.competition.remedies import ranges, recent, signatures

# Relocations for which a moved expert is not compared with others.
_GRACE = 3


class Recall(NamedTuple):
  """What `relocation` remembers.

  Attributes:
    win_share_E: float32, share of recent images that each expert won; sums to
      1.
    moved_step_E: int32, the step at which it last became another's copy.
    retired_E: bool, experts that win nothing until they are moved.
  """

  win_share_E: jax.Array
  moved_step_E: jax.Array
  retired_E: jax.Array


export.register_namedtuple_serialization(
  Recall, serialized_name="icm_jax.Recall"
)


class Thresholds(NamedTuple):
  """Settings of `relocation`."""

  every: int
  min_share: float
  max_share: float
  perturbation: float
  alike: float


def relocation(
  every: int,
  min_share: float = 0.5,
  max_share: float = 1.2,
  perturbation: float = 0.05,
  *,
  alike: float = 0.0,
) -> types.Remedy:
  """Moves idle experts: each becomes a perturbed copy of a busy one.

  The order of remedies matters: it comes after those whose memory it copies.

  Args:
    every: steps between relocations, at least 1.
    min_share: an expert whose recent share of wins is below this multiple of
      an equal share (1 / E) is idle; in [0, 1].
    max_share: only an expert whose share is above this multiple of an equal
      share is copied; at least 1.
    perturbation: standard deviation of the relative change of the copied
      parameters, without unit; at least 0.
    alike: of two experts whose signatures are nearer to each other than this,
      in squared standard deviations of a score, one can be spared, and idle
      experts that are not moved retire. 0: nobody retires. Needs the remedy
      `signature` before this one, and no `balance`.

  Raises:
    InputError: a setting is out of its range, or remedies do not fit together.
  """
  ranges.check("relocation.every", every, least=1, whole=True)
  ranges.check("relocation.min_share", min_share, least=0, most=1)
  ranges.check("relocation.max_share", max_share, least=1)
  ranges.check("relocation.perturbation", perturbation, least=0)
  ranges.check("relocation.alike", alike, least=0)
  thresholds = Thresholds(every, min_share, max_share, perturbation, alike)

  def init(memory, state, setup):
    names = [remedy.name for remedy in setup.remedies]
    if names[-1] != "relocation":
      raise types.InputError(
        "The remedy relocation must be the last one, for it copies what others "
        f"remember; got {', '.join(names)}."
      )
    if alike and ("signature" not in names or "balance" in names):
      raise types.InputError(
        "Experts retire by their signatures, and a handicap of busy experts "
        "would keep surplus experts at work: relocation.alike needs the remedy "
        f"signature, and no balance; got {', '.join(names)}."
      )
    share_E = recent.equal_shares(state)
    recall = Recall(
      win_share_E=share_E,
      moved_step_E=jnp.zeros(share_E.shape, jnp.int32),
      retired_E=jnp.zeros(share_E.shape, bool),
    )
    return {**memory, "relocation": recall}

  def leave_out_retired(merit_EB, state, seen=None):
    del seen
    retired_E1 = state.memory["relocation"].retired_E[:, None]
    return jnp.where(retired_E1, -jnp.inf, merit_EB)

  def after(state, seen, won):
    recall = state.memory["relocation"]
    recall = recall._replace(
      win_share_E=recent.update_shares(recall.win_share_E, won)
    )
    state = state.remember("relocation", recall)
    return relocate(state, seen.setup, thresholds)

  def report(metrics, state):
    moved_E = state.memory["relocation"].moved_step_E == state.step
    return {**metrics, "competition/moved_E": moved_E}

  return types.Remedy(
    "relocation",
    init=init,
    merit=leave_out_retired,
    after=after,
    report=report,
    test_merit=leave_out_retired,
  )


def idle(state: types.TrainState, thresholds: Thresholds) -> jax.Array:
  """Which experts have no work of their own, [E] bool.

  Those that won less than `min_share` of an equal share, those that have
  retired, and one that can be spared: another wins images of the same kind, as
  their signatures tell. Of several, it is the one that wins least. An expert
  that was moved lately is not compared: it needs time to part from whom it was
  copied.

  Args:
    state: after the update of its step.
    thresholds: of `relocation`.
  """
  share_E, moved_step_E, retired_E = state.memory["relocation"]
  active = jnp.sum(~retired_E, dtype=jnp.int32).astype(share_E.dtype)
  idle_E = retired_E | (share_E * active < thresholds.min_share)
  if not thresholds.alike:
    return idle_E
  is_new_E = state.step - moved_step_E < _GRACE * thresholds.every
  compared_E = ~(idle_E | is_new_E)
  distance_EE = signatures.distance(state.memory["signature"], ~retired_E)
  is_alike_EE = (
    (distance_EE < thresholds.alike)
    & (compared_E[:, None] & compared_E[None])
    & ~jnp.eye(share_E.shape[0], dtype=bool)
  )
  has_alike_E = is_alike_EE.any(axis=1)
  spared = jnp.argmin(jnp.where(has_alike_E, share_E, jnp.inf))
  return idle_E.at[spared].set(idle_E[spared] | has_alike_E[spared])


def donors(
  win_share_E: jax.Array, idle_E: jax.Array, thresholds: Thresholds
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
    thresholds: of `relocation`.

  Returns:
    moved_E, bool, and donor_E, int32 in [0, E), which counts where moved.
  """
  busy_E = jnp.where(idle_E, 0.0, win_share_E)
  usual = jnp.asarray(1.0 / win_share_E.shape[0], win_share_E.dtype)
  if thresholds.alike:
    # Of two in the middle the lower one: one of two experts may have twice as
    # many mechanisms as the other.
    num_idle = jnp.sum(idle_E, dtype=jnp.int32)
    middle = (win_share_E.shape[0] - num_idle - 1) // 2
    usual = jnp.sort(busy_E)[num_idle + middle]
  busiest_first_E = jnp.argsort(-busy_E)
  rank_E = jnp.where(idle_E, jnp.cumsum(idle_E, dtype=jnp.int32) - 1, 0)
  donor_E = busiest_first_E[rank_E]
  moved_E = idle_E & (busy_E[donor_E] > thresholds.max_share * usual)
  return moved_E, donor_E


def relocate(
  state: types.TrainState, setup: types.Setup, thresholds: Thresholds
) -> types.TrainState:
  """Moves idle experts, if it is time.

  A moved expert becomes a copy of a busy one, slightly perturbed so that the
  two part, with a fresh optimizer state. If `alike` is not 0, idle experts
  that are not moved retire, until they are. Everything else stays
  bit-identical.

  Args:
    state: after the update of its step.
    setup: of the run; its remedies follow with their memory.
    thresholds: of `relocation`.
  """
  recall = state.memory["relocation"]
  due = state.step % thresholds.every == 0
  idle_E = idle(state, thresholds)
  moved_E, donor_E = donors(recall.win_share_E, idle_E, thresholds)
  moved_E = moved_E & due
  retired_E = recall.retired_E & ~moved_E
  if thresholds.alike:
    retired_E = jnp.where(due, idle_E & ~moved_E, retired_E)
  key = rng.stream(state.key, "relocate", state.step)
  copies_E = _perturbed_copies(
    key, state.experts_E, donor_E, thresholds.perturbation
  )
  stats_E = jax.tree.map(lambda a_E: a_E[donor_E], state.expert_stats_E)
  opt_E = jax.vmap(setup.expert_tx.init)(copies_E)
  state = state.replace(
    experts_E=expert_axis.select(moved_E, copies_E, state.experts_E),
    expert_stats_E=expert_axis.select(moved_E, stats_E, state.expert_stats_E),
    expert_opt_E=expert_axis.select(moved_E, opt_E, state.expert_opt_E),
  )
  memory = setup.through("copied", state.memory, state, moved_E, donor_E)
  return state.replace(memory=memory).remember(
    "relocation",
    recall._replace(
      moved_step_E=jnp.where(moved_E, state.step, recall.moved_step_E),
      retired_E=retired_E,
    ),
  )


def _perturbed_copies(key, experts_E, donor_E, perturbation):
  """For every expert, the parameters of its donor, slightly changed."""
  # One draw for all parameters, for every draw adds to the time of compiling.
  leaves, structure = jax.tree.flatten(experts_E)
  sizes = [leaf[0].size for leaf in leaves]
  noise_E = jax.random.normal(key, (len(donor_E), sum(sizes)), jnp.float32)

  def perturbed(a_E, noise_E):
    copy_E = a_E[donor_E]
    axes = tuple(range(1, a_E.ndim))
    scale_E = jnp.sqrt(jnp.mean(copy_E**2, axis=axes, keepdims=True))
    noise_E = noise_E.reshape(a_E.shape).astype(a_E.dtype)
    return copy_E + perturbation * scale_E * noise_E

  noises_E = jnp.split(noise_E, np.cumsum(sizes)[:-1], axis=1)
  return jax.tree.unflatten(structure, map(perturbed, leaves, noises_E))
