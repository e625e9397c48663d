"""The description of a run in its folder, and opening a run without data."""

import json
import pathlib
import shutil

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
    "data": {},
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


def test_a_run_from_before_the_referee_is_opened(single, tmp_path):
  folder, expected = single
  earlier = tmp_path / "earlier"
  shutil.copytree(folder, earlier)
  path = earlier / run_folder.CONFIG
  content = json.loads(path.read_text())
  del content["config"]["remedies"]["referee"]
  path.write_text(json.dumps(content))
  opened = saved_run.open_run(earlier)
  for a, b in zip(arrays_of(opened.saved), arrays_of(expected), strict=True):
    np.testing.assert_array_equal(a, b)


def test_only_fitting_runs_can_be_a_single_network(single, tmp_path):
  folder, _ = single
  with pytest.raises(types.InputError, match=r"\[16, 16, 1\].*\[32, 32, 1\]"):
    saved_run.load_single_network(folder, (16, 16, 1))
  config, saw = run_folder.read(folder)
  config.experts.count = 2
  run_folder.write(tmp_path, config, saw)
  with pytest.raises(types.InputError, match="run with one expert.*is not"):
    saved_run.load_single_network(tmp_path, (32, 32, 1))


def test_a_run_resumes_only_with_the_data_that_it_saw(single):
  folder, _ = single
  config, saw = run_folder.read(folder)
  with (
    pytest.raises(types.InputError, match="other data: classes was 3, is 4"),
    run_folder.hold(folder, config, saw | {"classes": 4}),
  ):
    pass
  assert run_folder.read(folder).saw == saw


@pytest.mark.parametrize(
  ("name", "came"),
  [
    ("file/run", r"cannot be used: .*/file is a file"),
    ("file", r"cannot be used: .*/file is a file"),
    ("link", "is a link to nothing, nowhere"),
    ("link/run", "is a link to nothing, nowhere"),
    ("x" * 300, "cannot be written .File name too long"),
    ("loop/run", "is a link to nothing, loop|symbolic links"),
  ],
)
def test_a_place_where_no_run_can_be_is_told(name, came, tmp_path):
  (tmp_path / "file").touch()
  (tmp_path / "link").symlink_to("nowhere")
  (tmp_path / "loop").symlink_to("loop")
  before = sorted(tmp_path.iterdir())
  with pytest.raises(types.InputError, match=came) as caught:
    run_folder.claim(tmp_path / name, ml_collections.ConfigDict(), resume=False)
  assert "\n" not in str(caught.value)
  assert sorted(tmp_path.iterdir()) == before


def test_a_place_that_cannot_be_written_is_told(tmp_path, monkeypatch):
  def refuse(**kwargs):
    raise OSError(30, "Read-only file system")

  monkeypatch.setattr(run_folder.tempfile, "mkdtemp", refuse)
  with pytest.raises(types.InputError, match=r"written \(Read-only file sys"):
    run_folder.claim(
      tmp_path / "new", ml_collections.ConfigDict(), resume=False
    )


# ml_collections loads config files by a deprecated function.
@pytest.mark.filterwarnings("ignore:the load_module")
@pytest.mark.parametrize(
  ("content", "came"),
  [
    ('{"seed": 0}', "must have format 5; it has none: another version"),
    ('{"format": 6}', "must have format 5; it has 6: another version"),
    ("{", "1 bytes that are not valid JSON"),
    ("", "is damaged, 0 bytes that are not valid JSON"),
    ("[]", "must hold a JSON object, and holds '\\[\\]'"),
    ('{"format": 5, "saw": {}}', "is damaged: it has no 'config'"),
    ('{"format": 5, "config": {}}', "is damaged: it has no 'saw'"),
  ],
)
@pytest.mark.parametrize(
  "use", ["train", "evaluate", "report", "sweep", "open"]
)
def test_another_format_is_refused_in_one_line(use, content, came, tmp_path):
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


@pytest.fixture
def damaged(single, tmp_path):
  """A copy of a run, and a function that overwrites one of its files."""
  shutil.copytree(single[0], tmp_path / "run")

  def damage(name, content):
    path = tmp_path / "run" / name
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "half": data[: len(data) // 2]}[content])
    return tmp_path / "run"

  return damage


@pytest.mark.parametrize("content", ["empty", "half"])
@pytest.mark.parametrize("name", [run_folder.RESULT, run_folder.EXAMPLES])
def test_damaged_files_of_a_run_are_written_again(
  name, content, damaged, drawn, monkeypatch
):
  folder = damaged(name, content)
  with pytest.raises(types.InputError, match=f"{name} is damaged") as caught:
    report.write(folder)
  assert "\n" not in str(caught.value)
  monkeypatch.setattr(build.sources, "load", lambda n, **k: drawn)
  run_result.evaluate_checkpoint(folder)
  assert report.write(folder).exists()


def test_a_result_of_something_else_is_damaged(damaged):
  folder = damaged(run_folder.RESULT, "empty")
  (folder / run_folder.RESULT).write_text('{"config": {}, "seed": 0}')
  with pytest.raises(types.InputError, match="it has no steps, time, versions"):
    run_folder.read_result(folder)


@pytest.mark.parametrize("rest", [b"\xff\xfe", b"7\n", b'{"step": 4, "wal'])
def test_metrics_are_read_up_to_what_is_damaged(rest, tmp_path):
  path = tmp_path / run_folder.METRICS
  path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + rest + b'\n{"step": 3}\n')
  rows = run_folder.read_metrics(tmp_path)
  assert [row["step"] for row in rows] == [1, 2]


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
