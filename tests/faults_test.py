"""A short form of `make test-faults`: one run that is killed."""

import random
import signal

import numpy as np

from experiments.configs import mnist
from icm_jax.training import image_run
from tests import faults, run_process


def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path):
  config = mnist.get_config("smoke")
  values = {**run_process.VALUES, "data.dir": str(tmp_path / "data")}
  config.update_from_flattened_dict(values)
  whole, folder = tmp_path / "whole", tmp_path / "run"
  image_run.train(config, whole)
  counts = faults.Counts()
  faults.end_at(
    folder,
    tmp_path / "data",
    "saving",
    signal.SIGKILL,
    -1,
    random.Random(0),
    counts,
  )
  image_run.train(config, folder, resume=True)
  assert faults.differences(folder, whole) == []
  table = faults.table(counts)
  assert "SIGKILL at saving" in table
  for bad in (counts.wrong, counts.lost, counts.hangs):
    assert not bad.total(), (counts.notes, table)


def test_differences_are_seen(tmp_path, monkeypatch):
  """A comparison that could not fail would prove nothing."""
  monkeypatch.setattr(
    faults, "arrays_of", lambda folder: [np.ones(2).tobytes(), folder.name]
  )
  monkeypatch.setattr(faults, "rows_of", lambda folder: [])
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
  (tmp_path / "a" / ".result.json.abcdefgh").touch()
  found = faults.differences(tmp_path / "a", tmp_path / "b")
  assert found == ["state", "leftovers"]


def test_every_kill_and_stop_is_planned():
  runs = list(faults.plan(100, 20, random.Random(0)))
  signals = [number for moments in runs for _, number in moments]
  assert signals.count(signal.SIGKILL) == 100
  assert signals.count(signal.SIGTERM) == 20
  assert {moment for moments in runs for moment, _ in moments} == set(
    faults.MOMENTS
  )
