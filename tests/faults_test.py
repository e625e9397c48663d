"""A short form of `make test-faults`: one run that is killed."""

import collections
import random
import signal

import numpy as np

from experiments.configs import mnist
from icm_jax.training import image_run
from tests import compare_runs, faults, run_process


def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path):
  config = mnist.get_config("smoke")
  values = {**run_process.VALUES, "data.dir": str(tmp_path / "data")}
  config.update_from_flattened_dict(values)
  whole, folder = tmp_path / "whole", tmp_path / "run"
  image_run.train(config, whole)
  counts = faults.Counts()
  run = run_process.Run(folder, tmp_path / "data")
  faults.end_at(run, "saving", signal.SIGKILL, -1, random.Random(0), counts)
  image_run.train(config, folder, resume=True)
  assert compare_runs.differences(folder, whole) == []
  table = faults.table(counts)
  assert "SIGKILL at saving" in table
  for bad in (counts.wrong, counts.lost, counts.hangs):
    assert not bad.total(), (counts.notes, table)


def test_differences_are_seen(tmp_path, monkeypatch):
  """A comparison that could not fail would prove nothing."""
  values = {"a": 1.0, "b": np.nextafter(1.0, 2.0), "c": 1.1}
  monkeypatch.setattr(
    compare_runs,
    "arrays_of",
    lambda folder: [np.array([2, values[folder.name]])],
  )
  monkeypatch.setattr(compare_runs, "rows_of", lambda folder: [])
  a, b, c = (tmp_path / name for name in values)
  for folder in (a, b, c):
    folder.mkdir()
  (a / ".result.json.abcdefgh").touch()
  assert compare_runs.differences(a, b) == ["state", "leftovers"]
  assert compare_runs.differences(b, a, tolerance=1e-5) == []
  assert compare_runs.differences(b, c, tolerance=1e-5) == ["state"]


def test_every_kill_and_stop_is_planned():
  rng, sent = random.Random(0), collections.Counter()
  for form, *share in faults.shares(run_process.FORMS, 100, 20):
    planned = [pair for moments in faults.plan(*share, rng) for pair in moments]
    signals = collections.Counter(number for _, number in planned)
    assert signals[signal.SIGKILL] >= 10, form
    assert signals[signal.SIGTERM] >= 3, form
    assert {moment for moment, _ in planned} == set(faults.MOMENTS), form
    sent += signals
  assert sent[signal.SIGKILL] == 100
  assert sent[signal.SIGTERM] == 20
