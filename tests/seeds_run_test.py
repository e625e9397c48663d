"""Seeds that are trained at once go on from a checkpoint that all can read."""

import types as python_types

import pytest

from icm_jax import types
from icm_jax.training import checkpoint, seeds_run


class Checkpoints:
  """Checkpoints of one seed, some damaged and some of other networks."""

  def __init__(self, steps, broken=(), other=()):
    self._steps, self._broken, self._other = steps, broken, other
    self.damaged = {}

  def steps(self):
    return sorted(self._steps, reverse=True)

  def read_newest(self, *, steps):
    if steps in self._other:
      raise types.InputError(f"step {steps} does not fit")
    if steps in self._broken:
      self.damaged = {steps: "is damaged"}
      raise checkpoint.Damaged(f"step {steps} is damaged")
    return steps

  def passed_over(self):
    return [f"step {step} {reason}" for step, reason in self.damaged.items()]


def read_common(*checkpoints):
  simple = python_types.SimpleNamespace
  members = [
    simple(checkpoints=c, config=simple(seed=seed))
    for seed, c in enumerate(checkpoints)
  ]
  return seeds_run._read_common(members, abstract=())


def test_a_newer_checkpoint_of_one_seed_is_dropped():
  ahead, behind = Checkpoints([10, 20]), Checkpoints([0, 10])
  assert read_common(ahead, behind) == ([10, 10], [])
  assert list(ahead.damaged) == [20]
  assert not behind.damaged


def test_damaged_checkpoints_of_one_seed_are_passed_over_and_named():
  steps = [10, 20, 30]
  whole, broken = Checkpoints(steps), Checkpoints(steps, broken=[20, 30])
  lines = ["seed 1: step 30 is damaged", "seed 1: step 20 is damaged"]
  assert read_common(whole, broken) == ([10, 10], lines)
  # The next save drops them for both.
  assert list(whole.damaged) == list(broken.damaged) == [30, 20]


def test_checkpoints_that_do_not_fit_are_refused_though_older_ones_fit():
  for steps in ([20], [10, 20]):
    with pytest.raises(types.InputError, match="step 20 does not fit"):
      read_common(Checkpoints(steps), Checkpoints(steps, other=[20]))


def test_seeds_without_checkpoints_start():
  assert read_common(Checkpoints([]), Checkpoints([])) == ([], [])
  assert read_common(Checkpoints([0]), Checkpoints([])) == ([], [])


@pytest.mark.parametrize(
  ("first", "second", "message"),
  [
    ([10, 20], [], "no checkpoint of the same step"),
    # The first one was trained further on its own.
    ([10, 20, 30], [10], "no checkpoint of the same step"),
  ],
)
def test_no_work_is_dropped_for_other_seeds(first, second, message):
  with pytest.raises(types.InputError, match=message):
    read_common(Checkpoints(first), Checkpoints(second))


def test_damage_is_told_if_nothing_else_is_left():
  with pytest.raises(types.InputError, match="step 20 is damaged"):
    read_common(Checkpoints([20]), Checkpoints([20], broken=[20]))
