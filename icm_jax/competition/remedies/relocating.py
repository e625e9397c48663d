"""Idle experts restart as copies of busy ones, or retire."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from icm_jax import devices, rng, types
from icm_jax.competition import expert_axis
from icm_jax.competition.remedies import ranges, recent, signatures

# Number of relocations for which a moved expert is not compared with others.
_GRACE = 3


class Recall(NamedTuple):
  """Memory of `relocation`.

  Attributes:
    win_share_E: float32, share of recent images that each expert won; sums to
      1.
    moved_step_E: int32, step at which each expert last became a copy.
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

  It must be the last remedy, because it copies the memory of the others.

  Args:
    every: steps between relocations, at least 1.
    min_share: an expert whose recent share of wins is below this multiple of
      an equal share (1 / E) is idle; in [0, 1].
    max_share: only an expert whose share is above this multiple of an equal
      share is copied; at least 1.
    perturbation: standard deviation of the relative change of the copied
      parameters, without unit; at least 0.
    alike: distance of signatures, in squared standard deviations of a score,
      below which one of two experts is redundant; at least 0. If it is not 0,
      idle experts that are not moved retire, which needs the remedy `signature`
      and excludes `balance`.

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
        "The remedy relocation must be the last one, because it copies the "
        f"memory of the others; got {', '.join(names)}."
      )
    if alike and ("signature" not in names or "balance" in names):
      raise types.InputError(
        "The setting relocation.alike needs the remedy signature, which tells "
        "redundant experts, and excludes the remedy balance, whose handicap "
        f"would keep surplus experts busy; got {', '.join(names)}."
      )
    share_E = recent.equal_shares(state)
    recall = Recall(
      win_share_E=share_E,
      moved_step_E=jnp.zeros(share_E.shape, jnp.int32),
      retired_E=jnp.zeros(share_E.shape, bool),
    )
    return {**memory, "relocation": recall}

  def leave_out_retired(merit_EB, state, seen):
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
  """Finds the experts that have no work of their own.

  These are experts that won less than `min_share` of an equal share, retired
  experts, and one redundant expert: one that is `alike` another. If several are
  redundant, the one with the fewest wins is idle. Experts that were moved
  recently are not compared, because a copy needs time to become different from
  its donor.

  Args:
    state: state after the update of its step.
    thresholds: settings of `relocation`.

  Returns:
    [E] bool.
  """
  share_E, moved_step_E, _ = state.memory["relocation"]
  idle_E = _wins_little(state, thresholds)
  if not thresholds.alike:
    return idle_E
  is_new_E = state.step - moved_step_E < _GRACE * thresholds.every
  compared_EE = ~(is_new_E[:, None] | is_new_E[None])
  has_alike_E = (alike(state, thresholds) & compared_EE).any(axis=1)
  spared = jnp.argmin(jnp.where(has_alike_E, share_E, jnp.inf))
  return idle_E.at[spared].set(idle_E[spared] | has_alike_E[spared])


def alike(state: types.TrainState, thresholds: Thresholds) -> jax.Array:
  """Finds experts that win images of the same mechanism, by their signatures.

  Args:
    state: state after the update of its step.
    thresholds: settings of `relocation`, with `alike` above 0.

  Returns:
    [E, E] bool, symmetric; false for an expert and itself, and for experts that
    win little.
  """
  winning_E = ~_wins_little(state, thresholds)
  distance_EE = signatures.distance(
    state.memory["signature"].signature_EE,
    ~state.memory["relocation"].retired_E,
  )
  return (
    (distance_EE < thresholds.alike)
    & (winning_E[:, None] & winning_E[None])
    & ~jnp.eye(len(winning_E), dtype=bool)
  )


def donors(
  win_share_E: jax.Array,
  whole_share_E: jax.Array,
  idle_E: jax.Array,
  thresholds: Thresholds,
) -> tuple[jax.Array, jax.Array]:
  """Chooses the idle experts that are moved, and the donor of each.

  The first idle expert becomes a copy of the busiest expert, the second one of
  the second busiest, and so on, as long as the donor's share is more than
  `max_share` times the usual share: an expert with one mechanism is no donor.
  The usual share is an equal share of all experts. Where experts may retire,
  there may be more of them than mechanisms, and the usual share is the median
  of the whole shares of experts that are not idle.

  Args:
    win_share_E: float, share of recent images that each expert won; sums to 1.
    whole_share_E: float, the same of each expert and all that are alike it.
      While most mechanisms have two experts each, the one expert of another
      mechanism must not look as if it had two.
    idle_E: bool, idle experts.
    thresholds: settings of `relocation`.

  Returns:
    moved_E, bool; and donor_E, int32 in [0, E), without meaning where `moved_E`
    is false.
  """
  busy_E = jnp.where(idle_E, 0.0, win_share_E)
  usual = jnp.asarray(1.0 / win_share_E.shape[0], win_share_E.dtype)
  if thresholds.alike:
    # The lower of two middle values, because one of two experts may have twice
    # as many mechanisms as the other.
    num_idle = jnp.sum(idle_E, dtype=jnp.int32)
    middle = (win_share_E.shape[0] - num_idle - 1) // 2
    usual = jnp.sort(jnp.where(idle_E, 0.0, whole_share_E))[num_idle + middle]
  busiest_first_E = jnp.argsort(-busy_E)
  rank_E = jnp.where(idle_E, jnp.cumsum(idle_E, dtype=jnp.int32) - 1, 0)
  donor_E = busiest_first_E[rank_E]
  moved_E = idle_E & (busy_E[donor_E] > thresholds.max_share * usual)
  return moved_E, donor_E


def relocate(
  state: types.TrainState, setup: types.Setup, thresholds: Thresholds
) -> types.TrainState:
  """Moves idle experts, every `every` steps.

  A moved expert becomes a copy of a busy one, slightly perturbed so that the
  two can become different, with a fresh optimizer state. If `alike` is not 0,
  idle experts that are not moved retire until they are moved. Everything else
  stays bit-identical.

  Args:
    state: state after the update of its step.
    setup: setup of the run, whose remedies update their memory for the copies.
    thresholds: settings of `relocation`.
  """
  recall = state.memory["relocation"]
  due = state.step % thresholds.every == 0
  idle_E = idle(state, thresholds)
  share_E = whole_share_E = recall.win_share_E
  if thresholds.alike:
    alike_EE = alike(state, thresholds)
    whole_share_E += jnp.where(alike_EE, share_E[None], 0.0).sum(axis=1)
  moved_E, donor_E = donors(share_E, whole_share_E, idle_E, thresholds)
  moved_E = moved_E & due
  retired_E = recall.retired_E & ~moved_E
  if thresholds.alike:
    retired_E = jnp.where(due, idle_E & ~moved_E, retired_E)
  key = rng.stream(state.key, "relocate", state.step)

  def copy(experts_E, stats_E):
    copies_E = _perturbed_copies(
      key, experts_E, donor_E, thresholds.perturbation
    )
    return copies_E, jax.tree.map(
      functools.partial(_of_donors, donor_E), stats_E
    )

  copied = (state.experts_E, state.expert_stats_E)
  if devices.number(devices.EXPERT) == 1:
    copies_E, stats_E = copy(*copied)
  else:  # Parameters cross between devices in these steps only.
    copies_E, stats_E = jax.lax.cond(
      moved_E.any(), copy, lambda *same: same, *copied
    )
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


def _wins_little(state, thresholds):
  """Returns which experts retired, or won too few of the recent images."""
  share_E, _, retired_E = state.memory["relocation"]
  active = jnp.sum(~retired_E, dtype=jnp.int32).astype(share_E.dtype)
  return retired_E | (share_E * active < thresholds.min_share)


def _of_donors(donor_E, a_E):
  """Returns the donors' arrays, for the experts of this device."""
  return devices.gather(a_E, expert=0)[devices.own(donor_E, expert=0)]


def _perturbed_copies(key, experts_E, donor_E, perturbation):
  """Returns, for every expert, the perturbed parameters of its donor."""
  # All noise is one draw, because every draw adds to compile time.
  leaves, structure = jax.tree.flatten(experts_E)
  sizes = [leaf[0].size for leaf in leaves]
  noise_E = jax.random.normal(key, (len(donor_E), sum(sizes)), jnp.float32)
  noise_E = devices.own(noise_E, expert=0)

  def perturbed(a_E, noise_E):
    copy_E = _of_donors(donor_E, a_E)
    axes = tuple(range(1, a_E.ndim))
    scale_E = jnp.sqrt(jnp.mean(copy_E**2, axis=axes, keepdims=True))
    noise_E = noise_E.reshape(a_E.shape).astype(a_E.dtype)
    return copy_E + perturbation * scale_E * noise_E

  noises_E = jnp.split(noise_E, np.cumsum(sizes)[:-1], axis=1)
  return jax.tree.unflatten(structure, map(perturbed, leaves, noises_E))
