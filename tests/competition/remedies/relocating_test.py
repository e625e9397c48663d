"""Idle experts: which are idle, what they copy, and when they retire."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import competition, types
from icm_jax.competition import remedies
from icm_jax.competition.remedies import relocating

SETTINGS = {"every": 2, "min_share": 0.3, "max_share": 1.4, "perturbation": 0.1}
RELOCATION = relocating.Thresholds(**SETTINGS, alike=0.0)
RETIRING = RELOCATION._replace(alike=0.1)


# Signatures of four experts; those of the last two are similar.
def remember_signatures(state):
  memory = state.memory["signature"]
  memory = memory._replace(signature_EE=jnp.array(SIGNATURE_EE))
  return state.remember("signature", memory)


SIGNATURE_EE = [
  [1.5, -0.5, -0.5, -0.5],
  [-0.5, 1.5, -0.5, -0.5],
  [-0.5, -0.5, 0.9, 0.6],
  [-0.5, -0.5, 0.6, 0.9],
]


def with_relocation(setup, **settings):
  """A setup in which idle experts are moved, or retire."""
  chosen = (remedies.relocation(**(SETTINGS | settings)),)
  if settings.get("alike"):
    chosen = (remedies.signature(1.0), *chosen)
  return setup._replace(remedies=chosen)


def recall(state, **changes):
  """Returns a state in which relocation has another memory."""
  memory = state.memory["relocation"]._replace(**changes)
  return state.remember("relocation", memory)


def jit_relocate(state, setup, thresholds=RELOCATION):
  """Relocates under jit, because single operations take seconds to compile."""
  state = jax.jit(lambda s: relocating.relocate(s, setup, thresholds))(state)
  return state, state.memory["relocation"].moved_step_E == state.step


@pytest.mark.parametrize(
  ("share_E", "moved_E", "donor_of"),
  [
    ([0.50, 0.25, 0.25, 0.00], [0, 0, 0, 1], {3: 0}),
    ([0.00, 0.45, 0.55, 0.00], [1, 0, 0, 1], {0: 2, 3: 1}),
    ([0.00, 0.34, 0.33, 0.33], [0, 0, 0, 0], {}),  # No expert is overloaded.
    ([0.60, 0.00, 0.30, 0.10], [0, 1, 0, 0], {1: 0}),  # 0.1 is not idle.
    ([1.00, 0.00, 0.00, 0.00], [0, 1, 0, 0], {1: 0}),  # One at a time.
  ],
)
def test_donors_by_hand(share_E, moved_E, donor_of):
  share_E = jnp.array(share_E)
  idle_E = share_E * 4 < RELOCATION.min_share
  found_E, donor_E = relocating.donors(share_E, share_E, idle_E, RELOCATION)
  np.testing.assert_array_equal(found_E, np.array(moved_E, bool))
  for idle, donor in donor_of.items():
    assert int(donor_E[idle]) == donor


@pytest.mark.parametrize(
  ("share_E", "retired_E", "idle_E"),
  [
    # The expert with fewer wins of two similar ones is redundant.
    ([0.25, 0.25, 0.26, 0.24], [0, 0, 0, 0], [0, 0, 0, 1]),
    ([0.25, 0.05, 0.30, 0.40], [0, 0, 0, 0], [0, 1, 1, 0]),
    # An expert that is similar to an idle or a retired one is needed.
    ([0.30, 0.30, 0.36, 0.04], [0, 0, 0, 0], [0, 0, 0, 1]),
    ([0.30, 0.30, 0.00, 0.40], [0, 0, 1, 0], [0, 0, 1, 0]),
    # An equal share is a third, and 0.08 is too little of it.
    ([0.62, 0.08, 0.30, 0.00], [0, 0, 0, 1], [0, 1, 0, 1]),
  ],
)
def test_idle_experts_by_hand(
  share_E, retired_E, idle_E, make_setup, make_state
):
  state = make_state(with_relocation(make_setup(), alike=0.1), num_experts=4)
  state = recall(
    remember_signatures(state).replace(step=jnp.int32(6)),
    win_share_E=jnp.array(share_E),
    retired_E=jnp.array(retired_E, bool),
  )
  np.testing.assert_array_equal(relocating.idle(state, RETIRING), idle_E)
  # Experts are compared only if they may retire, some time after a move, and by
  # the scores of experts that have not retired.
  quiet_E = np.array(share_E) * (4 - sum(retired_E)) < 0.3
  for now, thresholds in (
    (state, RELOCATION),
    (recall(state, moved_step_E=jnp.full(4, 1)), RETIRING),
    (state, RETIRING._replace(alike=0.04)),
  ):
    np.testing.assert_array_equal(
      relocating.idle(now, thresholds), quiet_E | np.array(retired_E, bool)
    )


@pytest.mark.parametrize(
  ("share_E", "idle_E", "moved_E", "donor"),
  [
    # The usual share is 0.3, the median of three; 0.4 is not much more.
    ([0.30, 0.30, 0.40, 0.00], [0, 0, 0, 1], [0, 0, 0, 0], None),
    ([0.22, 0.22, 0.56, 0.00], [0, 0, 0, 1], [0, 0, 0, 1], 2),
    # One of two experts has twice the share of the other.
    ([0.33, 0.67, 0.00, 0.00], [0, 0, 1, 1], [0, 0, 1, 0], 1),
    # A redundant expert is moved, even if it is the busiest.
    ([0.40, 0.33, 0.15, 0.12], [1, 0, 0, 0], [1, 0, 0, 0], 1),
  ],
)
def test_donors_where_experts_may_retire(share_E, idle_E, moved_E, donor):
  share_E = jnp.array(share_E)
  found_E, donor_E = relocating.donors(
    share_E, share_E, jnp.array(idle_E, bool), RETIRING
  )
  np.testing.assert_array_equal(found_E, moved_E)
  if donor is not None:
    assert donor_E[np.argmax(moved_E)] == donor


def test_an_expert_with_a_mechanism_of_its_own_is_no_donor(
  make_setup, make_state
):
  # The last two experts share a mechanism, and the median share is half of one.
  setup = with_relocation(make_setup(), alike=0.1)
  state = remember_signatures(make_state(setup, num_experts=4))
  state = recall(
    state.replace(step=jnp.int32(6)),
    win_share_E=jnp.array([0.02, 0.49, 0.26, 0.23]),
    moved_step_E=jnp.array([0, 0, 5, 0]),
  )
  alike_EE = np.zeros((4, 4), bool)
  alike_EE[2, 3] = alike_EE[3, 2] = True
  np.testing.assert_array_equal(relocating.alike(state, RETIRING), alike_EE)
  state, moved_E = jit_relocate(state, setup, RETIRING)
  assert not moved_E.any()
  # Experts that differ have a mechanism each, and the second has two.
  different = RETIRING._replace(alike=0.04)
  state = state.replace(step=jnp.int32(8))
  _, moved_E = jit_relocate(state, setup, different)
  np.testing.assert_array_equal(moved_E, [1, 0, 0, 0])


def test_experts_retire_and_return_when_there_is_work(
  make_setup, make_state, make_batch
):
  setup = with_relocation(make_setup(), alike=0.1)
  state = remember_signatures(make_state(setup, num_experts=4))
  share_E = jnp.array([0.3, 0.3, 0.25, 0.15])
  state = recall(state.replace(step=jnp.int32(6)), win_share_E=share_E)
  between, moved_E = jit_relocate(
    state.replace(step=jnp.int32(7)), setup, RETIRING
  )
  assert not moved_E.any()
  assert not between.memory["relocation"].retired_E.any()
  state, moved_E = jit_relocate(state, setup, RETIRING)
  assert not moved_E.any()
  retired_E = state.memory["relocation"].retired_E
  np.testing.assert_array_equal(retired_E, [0, 0, 0, 1])
  merit_EB = jnp.full((4, 5), 1e4).at[3].set(2e4)
  seen = types.Seen(setup, make_batch(), None, merit_EB)
  merit_EB = setup.through("test_merit", merit_EB, state, seen)
  assert competition.assign_winners(merit_EB).wins_E[3] == 0
  step = jax.jit(functools.partial(competition.competition_step, setup=setup))
  assert step(state, make_batch(7))[1]["competition/wins_E"][3] == 0
  state = recall(
    state.replace(step=jnp.int32(8)),
    win_share_E=jnp.array([0.5, 0.25, 0.25, 0.0]),
  )
  state, moved_E = jit_relocate(state, setup, RETIRING)
  np.testing.assert_array_equal(moved_E, [0, 0, 0, 1])
  memory = state.memory["relocation"]
  np.testing.assert_array_equal(memory.moved_step_E, [0, 0, 0, 8])
  assert not memory.retired_E.any()


def test_remedies_that_do_not_fit_together_are_refused(make_setup, make_state):
  setup = make_setup()
  move, retire = (
    remedies.relocation(**SETTINGS, alike=alike) for alike in (0.0, 0.1)
  )
  for chosen, message in (
    ((move, remedies.balance(1.0)), "must be the last one"),
    ((retire,), "needs the remedy signature"),
    (
      (remedies.signature(1.0), remedies.balance(1.0), retire),
      "excludes the remedy balance",
    ),
    ((move, move), "once; got relocation, relocation"),
  ):
    with pytest.raises(types.InputError, match=message):
      make_state(setup._replace(remedies=chosen))


def test_a_moved_expert_is_a_perturbed_copy_with_a_fresh_optimizer(
  make_setup, make_state, make_batch
):
  setup = with_relocation(make_setup(norm="batch"), every=1000)
  step = jax.jit(functools.partial(competition.competition_step, setup=setup))
  state, _ = step(make_state(setup, num_experts=4), make_batch())
  share_E = jnp.array([0.0, 0.6, 0.2, 0.2])
  state = recall(state.replace(step=jnp.int32(4)), win_share_E=share_E)
  new, moved_E = jit_relocate(state, setup)
  np.testing.assert_array_equal(moved_E, [True, False, False, False])
  kernel_E, new_E = (
    np.asarray(max(jax.tree.leaves(s.experts_E), key=jnp.size))
    for s in (state, new)
  )
  difference = new_E[0] - kernel_E[1]
  relative = difference.std() / np.sqrt((kernel_E[1] ** 2).mean())
  assert 0.08 < relative < 0.12
  part = lambda tree_E, index: jax.tree.map(lambda a_E: a_E[index], tree_E)
  chex.assert_trees_all_equal(
    part(new.expert_opt_E, 0),
    setup.expert_tx.init(part(new.experts_E, 0)),
  )
  chex.assert_trees_all_equal(
    part(new.expert_stats_E, 0), part(state.expert_stats_E, 1)
  )
  rest = slice(1, None)
  for name in ("experts_E", "expert_stats_E", "expert_opt_E"):
    chex.assert_trees_all_equal(
      part(getattr(new, name), rest), part(getattr(state, name), rest)
    )


def test_nothing_moves_between_relocations(make_setup, make_state):
  setup = with_relocation(make_setup())
  share_E = jnp.array([1.0, 0.0, 0.0])
  state = make_state(setup).replace(step=jnp.int32(3))
  state = recall(state, win_share_E=share_E)
  new, moved_E = jit_relocate(state, setup)
  assert not moved_E.any()
  chex.assert_trees_all_equal(new.replace(key=None), state.replace(key=None))
