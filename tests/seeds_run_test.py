"""Seeds that are trained at once go on from a checkpoint that all can read."""

import types as python_types

import pytest

from icm_jax import types
from icm_jax.training import seeds_run


class Checkpoints:
  """Checkpoints of one seed, of which some are damaged."""

  def __init__(self, steps, broken=()):
    self._steps, self._broken = steps, broken
    self.damaged = {}

  def steps(self):
    return sorted(self._steps, reverse=True)

  def read_newest(self, *, steps):
    if steps in self._broken:
      raise types.InputError(f"step {steps} is damaged")
    return steps


def read_common(*checkpoints):
  members = [python_types.SimpleNamespace(checkpoints=c) for c in checkpoints]
  return seeds_run._read_common(members, abstract=())


def test_a_newer_checkpoint_of_one_seed_is_dropped():
  ahead, behind = Checkpoints([10, 20]), Checkpoints([0, 10])
  assert read_common(ahead, behind) == [10, 10]
  assert list(ahead.damaged) == [20]
  assert not behind.damaged


def test_a_damaged_checkpoint_of_one_seed_is_passed_over():
  whole, broken = Checkpoints([10, 20]), Checkpoints([10, 20], broken=[20])
  assert read_common(whole, broken) == [10, 10]
  assert list(whole.damaged) == list(broken.damaged) == [20]


def test_seeds_without_checkpoints_start():
  assert read_common(Checkpoints([]), Checkpoints([])) == []
  assert read_common(Checkpoints([0]), Checkpoints([])) == []


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
