"""Decoded arrays are written once, whole or not at all."""

import io
import multiprocessing
import pathlib
import time

import numpy as np
import PIL.Image
import pytest

from icm_jax import types
from icm_jax.data import decoded, pictures

VIEW = pictures.View(size=4, channels=1)


class Squares:
  """Pictures whose grey value is their number; some are damaged."""

  def __init__(self, count=10, damaged=(), mark="a", delay=0.0):
    self._count, self._damaged = count, damaged
    self._mark, self._delay = mark, delay
    self.reads = 0

  def __len__(self):
    return self._count

  def fingerprint(self):
    return [self._mark, self._count]

  def read(self, numbers):
    self.reads += 1
    time.sleep(self._delay)
    return [self._record(number) for number in numbers]

  def _record(self, number):
    buffer = io.BytesIO()
    PIL.Image.new("L", (4, 4), number % 256).save(buffer, "PNG")
    data = buffer.getvalue()
    if number in self._damaged:
      data = data[:-30]
    columns = {"number": number, "even": number % 2 == 0, "name": f"n{number}"}
    return decoded.Record(f"picture {number}", data, columns)


def decode(records, folder, view=VIEW):
  return decoded.decode(records, view, folder, progress=lambda *a: None)


def test_pictures_and_columns_keep_their_order(tmp_path, monkeypatch):
  monkeypatch.setattr(decoded, "_CHUNK", 3)
  images, skipped = decode(Squares(damaged=(4, 9)), tmp_path)
  kept = [0, 1, 2, 3, 5, 6, 7, 8]
  assert images.image_NHWC.shape == (8, 4, 4, 1)
  assert images.image_NHWC[:, 0, 0, 0].tolist() == kept
  assert images.columns["number"].tolist() == kept
  assert images.columns["number"].dtype == np.int32
  assert images.columns["even"].dtype == bool
  assert images.columns["name"].tolist() == [f"n{i}" for i in kept]
  assert skipped == [
    ("picture 4", "truncated or damaged"),
    ("picture 9", "truncated or damaged"),
  ]
  assert not images.image_NHWC.flags.writeable


def test_a_second_call_reads_nothing(tmp_path):
  decode(Squares(), tmp_path)
  again = Squares()
  images, _ = decode(again, tmp_path)
  assert again.reads == 0
  assert len(images.image_NHWC) == 10


def test_everything_that_shapes_the_array_is_in_its_key(tmp_path):
  decode(Squares(), tmp_path)
  for records, view in (
    (Squares(mark="b"), VIEW),
    (Squares(), VIEW._replace(size=5)),
    (Squares(), VIEW._replace(channels=3)),
    (Squares(), VIEW._replace(crop=2)),
    (Squares(), VIEW._replace(content=2)),
    (Squares(), VIEW._replace(invert=True)),
    (Squares(), VIEW._replace(max_pixels=99)),
  ):
    decode(records, tmp_path, view)
    assert records.reads
  assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 8


def test_a_decoding_that_is_cut_off_leaves_nothing(tmp_path):
  class Interrupted(Squares):
    def read(self, numbers):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    decode(Interrupted(), tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == [".lock"]
  assert len(decode(Squares(), tmp_path)[0].image_NHWC) == 10


def test_a_lack_of_usable_pictures_is_an_error(tmp_path):
  with pytest.raises(types.InputError, match="None of 2.*picture 0: "):
    decode(Squares(2, damaged=(0, 1)), tmp_path)
  with pytest.raises(types.InputError, match="no picture to read"):
    decode(Squares(0), tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path):
  for name in (".staged-abc", "incomplete.XY_1.0.0", "whole"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "part").touch()
  decode(Squares(), tmp_path)
  names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
  assert "whole" in names
  assert not names & {".staged-abc", "incomplete.XY_1.0.0"}


def test_locks_are_not_needed(tmp_path, monkeypatch):
  def refuse(file, operation):
    raise OSError(37, "No locks available")

  (tmp_path / ".staged-abc").mkdir()
  monkeypatch.setattr(decoded.fcntl, "flock", refuse)
  assert len(decode(Squares(), tmp_path)[0].image_NHWC) == 10
  assert (tmp_path / ".staged-abc").exists()  # Another may be at work on it.


def _decode_slowly(folder, results):
  records = Squares(delay=0.5)
  images, _ = decode(records, pathlib.Path(folder))
  results.put((records.reads, len(images.image_NHWC)))


def test_two_runs_at_once_decode_once(tmp_path):
  context = multiprocessing.get_context("spawn")
  results = context.Queue()
  workers = [
    context.Process(target=_decode_slowly, args=(str(tmp_path), results))
    for _ in range(2)
  ]
  for worker in workers:
    worker.start()
  found = sorted(results.get(timeout=60) for _ in workers)
  for worker in workers:
    worker.join()
  assert found == [(0, 10), (1, 10)]
