"""Flags of a process that is one of several."""

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import processes
from icm_jax import types

processes.define_flags()


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"processes": 2}, "--processes and --process need --coordinator"),
    ({"coordinator": "here:1"}, "got 'here:1', 0 and 0"),
    ({"coordinator": "here:1", "processes": 2, "process": 2}, "2 and 2"),
    ({"coordinator": "here", "processes": 2}, "--coordinator=HOST:PORT"),
  ],
)
def test_flags_that_do_not_fit_are_refused(given, message, monkeypatch):
  # Nothing else may pass: the real function would wait for other processes.
  monkeypatch.delattr(processes.jax.distributed, "initialize")
  with flagsaver.flagsaver(**given):
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(types.InputError, match=message):
      processes.start()


def test_where_nothing_is_found_the_message_names_the_flags(monkeypatch):
  def find_nothing(**how):
    assert "coordinator_address" not in how
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(processes.jax.distributed, "initialize", find_nothing)
  with flagsaver.flagsaver(coordinator="auto"):
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(types.InputError, match="each needs --coordinator=HOST"):
      processes.start()


def test_one_process_waits_for_no_others(monkeypatch):
  monkeypatch.delattr(processes.jax.distributed, "shutdown")
  assert not processes.are_several()
  processes.leave_together()
