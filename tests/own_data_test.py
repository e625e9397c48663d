"""Runs on folders of one's own: what was skipped, and what changed since."""

import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from experiments.configs import mnist
from icm_jax import types
from icm_jax.data import skipped
from icm_jax.training import (
  build,
  image_run,
  run_folder,
  run_result,
  train_loop,
)
from icm_jax.viz import report


class Lines(train_loop.Silent):
  """A reporter that keeps what is said."""

  def __init__(self):
    self.lines = []

  def say(self, text):
    self.lines.append(text)


def write(path, seed):
  rng = np.random.default_rng(seed)
  path.parent.mkdir(parents=True, exist_ok=True)
  image_HWC = rng.integers(0, 256, (16, 16, 3), np.uint8)
  PIL.Image.fromarray(image_HWC).save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run on 12 canonical pictures and 8 of two groups, and its lines."""
  root = tmp_path_factory.mktemp("own")
  for number in range(12):
    write(root / "clean" / f"{number:02}.png", number)
  for number in range(8):
    group = ("noise", "a$_{$b")[number % 2]
    write(root / "bad" / group / f"{number}.png", 20 + number)
  (root / "bad" / "noise" / "cut.png").write_bytes(b"no picture")
  (root / "bad" / "noise" / "phone.HEIC").touch()
  config = mnist.get_config("smoke")
  config.update_from_flattened_dict(
    {
      "data.name": f"folders:{root / 'clean'},{root / 'bad'}",
      "data.dir": str(root / "data"),
      "experts.count": 1,
      "identity.batch_size": 4,
      "identity.max_steps": 1,
      "train.steps": 0,
      "train.batch_size": 4,
    }
  )
  reporter = Lines()
  image_run.train(config, root / "run", reporter=reporter)
  return root, config, reporter.lines


@pytest.fixture
def copied(run, tmp_path):
  """Copies of the pictures and of the run, and the config for them."""
  root, config, _ = run
  copy = config.copy_and_resolve_references()
  with copy.unlocked():
    copy.data.name = f"folders:{tmp_path / 'clean'},{tmp_path / 'bad'}"
    copy.data.dir = str(tmp_path / "data")
  for name in ("clean", "bad", "run"):
    shutil.copytree(root / name, tmp_path / name)
  saw = run_folder.read(tmp_path / "run").saw
  run_folder.write(tmp_path / "run", copy, saw)
  return tmp_path, copy


def test_what_was_skipped_is_told_everywhere(run):
  root, _, lines = run
  reasons = {
    "not a picture": ["noise/cut.png"],
    "no picture that can be read by its suffix, .heic": ["noise/phone.HEIC"],
  }
  result = json.loads((root / "run" / run_folder.RESULT).read_text())
  assert result["data"]["skipped"] == 2
  assert result["data"]["skipped_by_reason"] == reasons
  expected = "2 skipped: "
  (line,) = (line for line in lines if expected in line)
  assert any("--config.mechanisms is not used" in line for line in lines)
  page = report.write(root / "run").read_text()
  for text in (line, page):
    assert expected in text
    for reason, names in reasons.items():
      assert f"1 {reason} ({names[0]})" in text
  assert skipped.describe({}) == "0 skipped"
  many = skipped.describe({"bad": [f"{n}.png" for n in range(1_200)]})
  assert many == "1,200 skipped: 1,200 bad (0.png, 1.png, 2.png, ...)"


def _remove(root: pathlib.Path):
  (root / "clean" / "03.png").unlink()


def _replace(root: pathlib.Path):
  write(root / "clean" / "03.png", 99)


def _rename(root: pathlib.Path):
  (root / "clean" / "03.png").rename(root / "clean" / "99.png")


def _add_group(root: pathlib.Path):
  for number in range(5):
    write(root / "bad" / "fog" / f"{number}.png", 50 + number)


def _move_to_another_group(root: pathlib.Path):
  (root / "bad" / "noise" / "0.png").rename(root / "bad" / "a$_{$b" / "0.png")


@pytest.mark.parametrize(
  ("change", "named"),
  [
    (
      _remove,
      r"data\.canonical was '12 images, \w+', is '11 images, \w+'; "
      r"gone: canonical/03\.png\.",
    ),
    (
      _replace,
      r"data\.canonical was '12 images, \w+', is '12 images, \w+'; "
      r"changed: canonical/03\.png\.",
    ),
    (_rename, r"gone: canonical/03\.png; new: canonical/99\.png\."),
    (
      _add_group,
      r"'8 images, .*'13 images, .*; mechanisms was .*fog.*; "
      r"new: transformed/fog/0\.png, transformed/fog/1\.png, .* and 2 more",
    ),
    (
      _move_to_another_group,
      r"data\.transformed was '8 images, .* is '8 imag.*"
      r"gone: transformed/noise/0\.png; new: .*/0\.png\.",
    ),
  ],
)
def test_data_that_changed_are_refused(copied, change, named):
  root, config = copied
  change(root)
  with config.unlocked():
    config.train.steps = 1
  before = sorted(path.name for path in (root / "run").iterdir())
  for use in (
    lambda: image_run.train(config, root / "run", resume=True),
    lambda: run_result.evaluate_checkpoint(root / "run"),
  ):
    with pytest.raises(types.InputError, match=f"saw other data: .*{named}"):
      use()
  assert sorted(path.name for path in (root / "run").iterdir()) == before


def test_the_same_pictures_elsewhere_are_the_same_data(copied):
  root, config = copied
  for path in root.glob("clean/*.png"):
    path.touch()
  (root / "clean" / "notes.txt").write_text("beside the point")
  run_folder.check_saw(root / "run", build.saw(config, build.build(config)))
  # Runs of earlier versions did not store what they saw of the data.
  saw = run_folder.read(root / "run").saw
  del saw["data"]["files"]
  run_folder.write(root / "run", config, saw)
  run_folder.check_saw(root / "run", build.saw(config, build.build(config)))
  del saw["data"]
  run_folder.write(root / "run", config, saw)
  _remove(root)
  run_folder.check_saw(root / "run", build.saw(config, build.build(config)))
