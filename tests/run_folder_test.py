"""What a run's folder says of it, and how it is opened without its data."""

import json
import pathlib

import jax
import ml_collections
import numpy as np
import pytest

from experiments import kinds, runs
from experiments.configs import mnist
from icm_jax import competition, types
from icm_jax.training import (
  build,
  image_run,
  run_folder,
  run_result,
  saved_run,
)
from icm_jax.viz import report


@pytest.fixture(scope="module")
def single(tmp_path_factory, drawn):
  """The folder of a run with one expert."""
  folder = tmp_path_factory.mktemp("runs") / "single"
  config = mnist.get_config("smoke")
  config.update_from_flattened_dict({"experts.count": 1, "train.steps": 0})
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build.sources, "load", lambda n, **k: drawn)
    image_run.train(config, folder)
    run = build.build(config)
    saved = run_result.read_checkpoint(folder, config, run)
  return folder, saved


def arrays_of(saved):
  key = jax.random.key_data(saved.state.key)
  return jax.tree.leaves((saved.state.replace(key=key), saved.classifier))


def test_a_run_is_opened_without_its_data(single, monkeypatch):
  folder, expected = single
  content = json.loads((folder / run_folder.CONFIG).read_text())
  assert list(content) == ["format", "saw", "config"]
  assert content["format"] == run_folder.FORMAT
  assert content["config"]["experts"]["count"] == 1
  assert content["saw"] == {
    "image_shape": [32, 32, 1],
    "classes": 3,
    "mechanisms": ["right", "down", "invert"],
    "experts": 1,
  }
  monkeypatch.setattr(
    build.sources, "load", lambda *a, **k: pytest.fail("data were loaded")
  )
  opened = saved_run.open_run(folder)
  for a, b in zip(arrays_of(opened.saved), arrays_of(expected), strict=True):
    np.testing.assert_array_equal(a, b)
  x_BHWC = np.full((2, 32, 32, 1), 0.5, np.float32)
  logit_BK, _ = opened.classifier.apply(
    opened.saved.classifier, {}, x_BHWC, train=False
  )
  assert logit_BK.shape == (2, 3)
  apply = saved_run.load_single_network(folder, (32, 32, 1))
  restored = competition.restore(opened.saved.state, x_BHWC, setup=opened.setup)
  np.testing.assert_array_equal(apply(x_BHWC), restored.output_EBHWC[0])


def test_only_what_fits_is_taken_for_a_single_network(single, tmp_path):
  folder, _ = single
  with pytest.raises(types.InputError, match=r"\[16, 16, 1\].*\[32, 32, 1\]"):
    saved_run.load_single_network(folder, (16, 16, 1))
  config, saw = run_folder.read(folder)
  config.experts.count = 2
  run_folder.write(tmp_path, config, saw)
  with pytest.raises(types.InputError, match="run with one expert.*is not"):
    saved_run.load_single_network(tmp_path, (32, 32, 1))


def test_a_run_goes_on_with_the_data_that_it_saw(single):
  folder, _ = single
  config, saw = run_folder.read(folder)
  with (
    pytest.raises(types.InputError, match="other data: classes was 3, is 4"),
    run_folder.hold(folder, config, saw | {"classes": 4}),
  ):
    pass
  assert run_folder.read(folder).saw == saw


# ml_collections loads config files by a deprecated function.
@pytest.mark.filterwarnings("ignore:the load_module")
@pytest.mark.parametrize(
  ("content", "came"),
  [
    ('{"seed": 0}', "must have format 2; it has none: another version"),
    ('{"format": 3}', "must have format 2; it has 3: another version"),
    ("{", "is not valid JSON"),
  ],
)
@pytest.mark.parametrize(
  "use", ["train", "evaluate", "report", "sweep", "open"]
)
def test_another_format_is_told_in_one_line(use, content, came, tmp_path):
  folder = tmp_path / "as_it_is" / "seed_0"
  folder.mkdir(parents=True)
  (folder / run_folder.CONFIG).write_text(content)
  for name in (run_folder.RESULT, run_folder.EXAMPLES):
    (folder / name).write_text("{}")
  name = "experiments/configs/mnist.py:smoke"
  uses = {
    "train": lambda: image_run.train(
      ml_collections.ConfigDict(), folder, resume=True
    ),
    "evaluate": lambda: kinds.from_workdir(folder),
    "report": lambda: report.write(folder),
    "sweep": lambda: runs.plan(tmp_path, name, (), ("",), (0,)),
    "open": lambda: saved_run.open_run(folder),
  }
  with pytest.raises(types.InputError, match=came) as caught:
    uses[use]()
  assert "\n" not in str(caught.value)


def own_pictures(name):
  config = mnist.get_config("smoke")
  config.update_from_flattened_dict(
    {"data.name": name, "data.dir": "prepared", "data.manual_dir": ""}
  )
  return config


def test_folders_are_stored_as_absolute_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  given = own_pictures("folders:clean, ../dirty")
  given.transfer.name = "folder:~/other"
  config = run_folder.absolute(given)
  assert config.data.name == f"folders:{tmp_path}/clean,{tmp_path}/../dirty"
  assert config.data.dir == str(tmp_path / "prepared")
  assert config.data.manual_dir == ""
  assert config.transfer.name == f"folder:{pathlib.Path.home() / 'other'}"
  assert given.data.name == "folders:clean, ../dirty"
  assert run_folder.absolute(config) == config
  named = run_folder.absolute(own_pictures("mnist_5k"))
  assert named.data.name == "mnist_5k"


def test_own_pictures_that_moved_can_be_named_again(tmp_path):
  saw = {"image_shape": [32, 32, 1]}
  run_folder.write(tmp_path, own_pictures("folder:/before"), saw)
  moved = own_pictures("folder:/after")
  run_folder.claim(tmp_path, moved, resume=True)
  with run_folder.hold(tmp_path, moved, saw):
    assert run_folder.read(tmp_path).config.data.name == "folder:/after"
  for other in ("folders:/a,/b", "mnist_5k"):
    with pytest.raises(types.InputError, match="data.name was 'folder:/after'"):
      run_folder.claim(tmp_path, own_pictures(other), resume=True)
