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


def test_one_process_waits_for_no_others(monkeypatch):
  monkeypatch.delattr(processes.jax.distributed, "shutdown")
  assert not processes.are_several()
  processes.leave_together()
