import errno
import json
import math
import os
import pathlib
import re
import shutil
import signal
import threading

import jax
import ml_collections
import numpy as np
import pytest

from experiments.configs import mnist, mnist_paper
from icm_jax import types
from icm_jax.competition import remedies
from icm_jax.evaluation import (
  classical,
  detection,
  evaluator,
  transfer,
)
from icm_jax.evaluation.detectors import centerface
from icm_jax.training import (
  atomic_files,
  build,
  checkpoint,
  image_run,
  metrics,
  run_folder,
  run_result,
  train_loop,
)
from icm_jax.viz import report

pytestmark = pytest.mark.usefixtures("drawn_data")


def smoke(steps=3, **overrides):
  config = mnist.get_config("smoke")
  config.train.steps = steps
  config.update_from_flattened_dict(overrides)
  return config


def pretend_installed(monkeypatch):
  """Pretends that the packages of the face detector are installed."""
  for module in (classical, centerface):
    monkeypatch.setattr(module, "check_installed", lambda *config: None)


def leaves_of(folder):
  """Returns all arrays of the newest checkpoint as NumPy arrays."""
  config = run_folder.read(folder).config
  run = build.build(config)
  saved = run_result.read_checkpoint(folder, config, run)
  state = saved.state.replace(key=jax.random.key_data(saved.state.key))
  return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def six(tmp_path_factory, drawn):
  """A run of six steps without a break, and its result."""
  folder = tmp_path_factory.mktemp("runs") / "six"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build.sources, "load", lambda n, **k: drawn)
    result = image_run.train(smoke(6), folder)
  return folder, result


def test_resuming_is_exact(six, tmp_path):
  whole, result = six
  folder = tmp_path / "parts"
  image_run.train(smoke(3), folder)
  resumed = image_run.train(smoke(6), folder, resume=True)
  for a, b in zip(leaves_of(whole), leaves_of(folder), strict=True):
    np.testing.assert_array_equal(a, b)
  assert resumed["wins"] == result["wins"]
  assert resumed["classifier"] == result["classifier"]
  rows = [
    {name: value for name, value in row.items() if name != "wall_s"}
    for row in run_folder.read_metrics(folder)
    if "loss/expert" in row
  ]
  expected = [
    {name: value for name, value in row.items() if name != "wall_s"}
    for row in run_folder.read_metrics(whole)
    if "loss/expert" in row
  ]
  assert rows == expected
  assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_several_steps_per_dispatch_change_nothing(six, tmp_path):
  whole, _ = six
  folder = tmp_path / "strides"
  every = {"every.log": 2, "train.updates_per_dispatch": 2}
  image_run.train(smoke(6, **every), folder)
  for a, b in zip(leaves_of(whole), leaves_of(folder), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  rows = [r for r in run_folder.read_metrics(folder) if "loss/expert" in r]
  assert [row["step"] for row in rows] == [2, 4, 6]
  # A run that stopped between two dispatches cannot resume with longer ones.
  with pytest.raises(types.InputError, match="updates_per_dispatch was 2"):
    image_run.train(smoke(6), folder, resume=True)


@pytest.mark.parametrize("name", ["train.steps", "every.evaluate"])
def test_dispatches_must_fit_into_the_run(name, tmp_path):
  fitting = {"every.log": 2, "train.updates_per_dispatch": 2}
  config = smoke(4, **(fitting | {name: 5}))
  with pytest.raises(types.InputError, match=f"{name} must be a multiple.*5"):
    image_run.train(config, tmp_path / "run")


def test_an_interrupted_run_resumes_without_double_rows(six, tmp_path):
  whole, _ = six
  folder = tmp_path / "cut"
  image_run.train(smoke(5), folder)
  # A kill leaves rows beyond the newest checkpoint, the last of which is cut.
  manager = checkpoint.Checkpoints(folder)
  assert manager.steps() == [5, 4]
  manager.close()
  (folder / "checkpoints" / "5").rename(folder / "checkpoints" / "gone")
  with (folder / run_folder.METRICS).open("a") as file:
    file.write('{"step": 6, "wall')
  image_run.train(smoke(6), folder, resume=True)
  steps = [
    row["step"]
    for row in run_folder.read_metrics(folder)
    if "loss/expert" in row
  ]
  assert steps == [1, 2, 3, 4, 5, 6]
  for a, b in zip(leaves_of(whole), leaves_of(folder), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_damaged_checkpoint_is_passed_over(six, tmp_path):
  whole, _ = six
  folder = tmp_path / "damaged"
  image_run.train(smoke(5), folder)
  for path in (folder / "checkpoints" / "5").rglob("*"):
    if path.is_file():
      path.write_bytes(b"damaged")
  image_run.train(smoke(6), folder, resume=True)
  for a, b in zip(leaves_of(whole), leaves_of(folder), strict=True):
    np.testing.assert_array_equal(a, b)


def test_an_interruption_saves_first(six, tmp_path):
  whole, _ = six

  class Impatient(train_loop.Silent):
    """Presses Ctrl-C in the middle of the run."""

    said = threading.Event()

    def say(self, text):
      if text.startswith("stopping after the next step"):
        self.said.set()

    def progress(self, step, total, values):
      if step == 3:
        os.kill(os.getpid(), signal.SIGINT)
        assert self.said.wait(60)  # At once, not after the step.

  folder = tmp_path / "run"
  handler = signal.getsignal(signal.SIGINT)
  with pytest.raises(train_loop.Interrupted, match="after step 4.*--resume"):
    image_run.train(smoke(6), folder, reporter=Impatient())
  assert signal.getsignal(signal.SIGINT) is handler
  assert not (folder / run_folder.RESULT).exists()
  image_run.train(smoke(6), folder, resume=True)
  for a, b in zip(leaves_of(whole), leaves_of(folder), strict=True):
    np.testing.assert_array_equal(a, b)


def test_the_result_has_all_its_values(six):
  folder, result = six
  assert json.loads((folder / run_folder.RESULT).read_text()) == result
  assert result["seed"] == 0
  assert result["data"] == {
    "name": "drawn",
    "transformed": 60,
    "canonical": 60,
    "test": 40,
    "evaluated": 20,
    "unused": 0,
    "skipped": 0,
    "skipped_by_reason": {},
  }
  assert result["steps"] == 6
  assert result["mechanisms"] == ["right", "down", "invert"]
  assert result["experts"] == 3
  assert np.array(result["wins"]).shape == (3, 3)
  assert np.sum(result["wins"]) == 20
  assert 0 <= result["matched"] <= result["coverage"] <= 1
  assert isinstance(result["one_to_one"], bool)
  assert 1 <= result["active_experts"] <= 3
  assert result["found_steps"].keys() == set(result["mechanisms"])
  views = {"clean", "transformed", "restored"}
  assert result["classifier"].keys() == views | {"per_mechanism"}
  assert result["classifier"]["per_mechanism"].keys() == set(
    result["mechanisms"]
  )
  for accuracy in result["classifier"]["per_mechanism"].values():
    assert accuracy.keys() == views
  assert result["psnr_db"].keys() == set(result["mechanisms"])
  time = result["time"]
  stages = ("start", "compile", "identity", "train", "evaluate")
  assert all(time[f"{stage}_s"] > 0 for stage in stages)
  assert sum(time.values()) - time["total_s"] <= time["total_s"] + 0.1
  assert result["versions"]["jax"] == jax.__version__
  assert re.fullmatch(
    "[0-9a-f]{7,}(-dirty)?|no checkout", result["versions"]["commit"]
  )
  assert result["config"]["train"]["steps"] == 6


def test_groups_are_mechanisms_and_go_without_a_classifier(tmp_path):
  config = smoke(2)
  config.data.canonical = "label=0"
  config.data.groups = "label=1, label=2"
  config.experts.count = 2
  config.attributes.names = "label=0"
  config.transfer.update(name="mnist", examples=6)
  result = image_run.train(config, tmp_path / "run")
  assert result["mechanisms"] == ["label=1", "label=2"]
  assert result["classifier"] is None
  assert result["psnr_db"] is None
  assert np.array(result["wins"]).shape == (2, 2)
  with np.load(tmp_path / "run" / run_folder.EXAMPLES) as examples:
    assert "clean_MHWC" not in examples
  attributes = result["attributes"]
  assert set(attributes["probe"]) == {"label=0", "label=1", "label=2"}
  assert attributes["likeness"] is None  # The data set has no people.
  assert set(attributes["by_group"]) == {"label=1", "label=2"}
  again = run_result.evaluate_checkpoint(tmp_path / "run")
  assert again["wins"] == result["wins"]
  assert again["attributes"] == attributes
  assert again["transfer"] == result["transfer"]
  assert result["transfer"]["attributes"]["images"] == 6
  page = report.write(tmp_path / "run").read_text()
  assert "recognised" not in page
  assert "PSNR" not in page
  assert "<h2>Attributes, before and after</h2>" in page
  assert "looks at 6 images" in page
  assert report.headline(result).endswith("expert of their own")


@pytest.mark.parametrize(
  ("name", "crop", "frame"),
  [
    ("lfw", None, (0.5 - 0.5 * 14 / 13, 0.42 - 0.53 * 14 / 13, 14 / 13)),
    # CelebA's own crop has 148 pixels: eyes are 0.26 * 1.48 apart.
    (
      "lfw",
      100,
      (
        0.5 - 0.5 * 0.28 / 0.3848,
        0.42 - 0.5444 * 0.28 / 0.3848,
        0.28 / 0.3848,
      ),
    ),
    ("mnist", None, None),
  ],
)
def test_faces_of_another_data_set_are_aligned_with_the_runs(
  drawn, monkeypatch, name, crop, frame
):
  config = smoke(**{"data.name": "celeb_a", "data.crop": crop})
  config.transfer.update(name=name, examples=6, canonical="label=0|1")
  views = []

  def load(name, *, view, **kwargs):
    del name, kwargs
    views.append(view)
    return drawn

  monkeypatch.setattr(build.sources, "load", load)
  parts = evaluator.Parts(*(None for _ in evaluator.Parts._fields))
  parts = parts._replace(
    config=config, problem=build.make_problem(config, drawn)
  )
  other = transfer.load(parts)
  assert views[-1].get("frame") == (frame and pytest.approx(frame))
  # All that the rule names are tests: nothing is trained on them.
  label_N = drawn.images.label_N
  np.testing.assert_array_equal(other.test_ids, np.flatnonzero(label_N <= 1))


def test_requested_evaluations_are_measured(six, drawn, monkeypatch):
  folder, result = six
  assert result["detection"] is None
  assert result["attributes"] is None
  assert result["chains"] is None
  assert result["transfer"] is None
  assert result["margin"] is None
  config, saw = run_folder.read(folder)
  config.chains.update(examples=5, max_length=1)
  config.transfer.update(name="mnist", examples=6)
  config.detection.examples = 5
  # The detector takes whole images for faces.
  whole = detection.Faces(np.array([[0.0, 0.0, 32.0, 32.0]]), np.ones(1))
  monkeypatch.setattr(
    centerface, "load", lambda: lambda x_BHWC: [whole] * len(x_BHWC)
  )
  pretend_installed(monkeypatch)
  monkeypatch.setattr(classical, "restore", lambda mechanism, x_BHWC: x_BHWC)
  damaged = drawn._replace(skipped=[("a.jpg", "truncated")])
  monkeypatch.setattr(build.sources, "load", lambda name, **kwargs: damaged)
  run_folder.write(folder, config, saw)
  try:
    again = run_result.evaluate_checkpoint(folder)
    assert again["margin"] >= 0
    assert set(again["chains"]["by_length"]) == {"0", "1"}
    assert again["transfer"]["data"] == "mnist"
    reasons = {"truncated": ["a.jpg"]}
    assert again["transfer"]["skipped_by_reason"] == reasons
    assert set(again["transfer"]["by_mechanism"]) == set(result["mechanisms"])
    assert set(again["detection"]) == set(result["mechanisms"])
    assert set(again["transfer"]["detection"]) == set(result["mechanisms"])
    for table in (again["detection"], again["transfer"]["detection"]):
      for row in table.values():
        assert (row["restored"], row["single_network"]) == (1.0, None)
        assert row["faces"] == 5
    page = report.write(folder).read_text()
    assert "<h2>Faces, detected</h2>" in page
    assert "<h2>Faces, detected on mnist</h2>" in page
    assert "a detector finds 100.0% of the faces in restored" in page
    assert "On mnist" in page
    assert "Mechanisms in a row" in page
  finally:
    run_folder.write(folder, ml_collections.ConfigDict(result["config"]), saw)
    atomic_files.write_json(folder / run_folder.RESULT, result)


def test_a_run_leaves_its_files(six):
  folder, _ = six
  assert (
    json.loads((folder / run_folder.CONFIG).read_text())["config"]["seed"] == 0
  )
  assert list((folder / run_folder.TENSORBOARD).glob("events.*"))
  evaluations = [
    row
    for row in run_folder.read_metrics(folder)
    if "evaluation/wins_EM" in row
  ]
  assert [row["step"] for row in evaluations] == [0, 2, 4, 6]
  assert np.shape(evaluations[0]["evaluation/score_EM"]) == (3, 3)


def test_a_full_disk_ends_a_run_with_one_line(tmp_path, monkeypatch):
  threads = threading.active_count()
  writer = metrics.MetricWriter(tmp_path, last_step=-1)
  # A thread that dies would leave the run waiting for it.
  assert threading.active_count() == threads
  writer.write(0, 0.0, {"loss/experts": np.float32(1)})
  writer._file.close()
  with pathlib.Path("/dev/full").open("ab", buffering=0) as full:
    monkeypatch.setattr(writer, "_file", full)
    with pytest.raises(types.InputError, match=r"No space.*--resume"):
      writer.write(1, 0.0, {"a": np.ones(2)})
  writer.close()


def test_a_disk_that_becomes_full_within_a_row_takes_none_of_it(
  tmp_path, monkeypatch
):
  writer = metrics.MetricWriter(tmp_path, last_step=-1)
  writer.write(0, 0.0, {"loss/experts": np.float32(1)})
  before = (tmp_path / run_folder.METRICS).read_bytes()
  whole = writer._file
  space = iter([5])

  class Filling:
    """A file on a disk that has space for five more bytes."""

    fileno, truncate, close = whole.fileno, whole.truncate, whole.close

    def write(self, data):
      for left in space:
        return whole.write(data[:left])
      raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(writer, "_file", Filling())
  with pytest.raises(types.InputError, match=r"No space.*--resume"):
    writer.write(1, 0.0, {"loss/experts": np.float32(2)})
  assert (tmp_path / run_folder.METRICS).read_bytes() == before
  shutil.rmtree(tmp_path)
  with pytest.raises(types.InputError, match=r"No such file.*--resume"):
    writer.write(1, 0.0, {"loss/experts": np.float32(2)})
  writer.close()


def test_evaluating_again_gives_the_same(six):
  folder, result = six
  again = run_result.evaluate_checkpoint(folder)
  names = ("wins", "classifier", "psnr_db", "steps", "found_steps", "time")
  for name in names:
    assert again[name] == result[name]


def test_a_value_that_is_not_finite_stops_the_run(tmp_path):
  config = smoke(6, **{"experts.learning_rate": 1e38, "every.log": 3})
  with pytest.raises(FloatingPointError, match=r"loss/.* is .* at step 2;"):
    image_run.train(config, tmp_path / "run")
  assert not (tmp_path / "run" / run_folder.RESULT).exists()


def test_rows_are_means_of_losses_and_sums_of_counts():
  steps = [
    {"loss/expert": np.float32(v), "competition/wins_E": np.array([v, 1])}
    for v in (1, 3)
  ]
  row = metrics.summarise(7, steps)
  assert row["loss/expert"] == 2
  np.testing.assert_array_equal(row["competition/wins_E"], [4, 2])
  bad = {"loss/discriminator": np.float32("inf"), "loss/expert": np.nan}
  steps += [{**steps[0], **bad}, {**steps[0], "loss/a": np.nan}]
  with pytest.raises(
    FloatingPointError,
    match="^loss/expert is NaN, loss/discriminator is inf at step 9;",
  ):
    metrics.summarise(7, steps)


def test_a_folder_belongs_to_one_run(six, tmp_path):
  folder, _ = six
  with pytest.raises(types.InputError, match="holds a run already.*--resume"):
    image_run.train(smoke(), folder)
  with pytest.raises(types.InputError, match="experts.features was 4, is 5"):
    image_run.train(smoke(6, **{"experts.features": 5}), folder, resume=True)
  with pytest.raises(types.InputError, match="no run to resume"):
    image_run.train(smoke(), tmp_path / "new", resume=True)
  (tmp_path / "letters").mkdir()
  (tmp_path / "letters" / "a.txt").write_text("not a run")
  with pytest.raises(types.InputError, match="not empty"):
    image_run.train(smoke(), tmp_path / "letters")
  with pytest.raises(types.InputError, match="is a file"):
    image_run.train(smoke(), tmp_path / "letters" / "a.txt")
  with pytest.raises(types.InputError, match="holds no run"):
    run_result.evaluate_checkpoint(tmp_path / "letters")


def test_two_processes_cannot_resume_one_run(six):
  folder, _ = six
  config, saw = run_folder.read(folder)
  with (
    run_folder.hold(folder, config, saw),
    pytest.raises(types.InputError, match="Another process uses"),
  ):
    image_run.train(smoke(6), folder, resume=True)
  with run_folder.hold(folder, config, saw):
    assert run_folder.read(folder).config.to_dict() == config.to_dict()


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"mechanisms.names": ("right", "nope")}, "'right', 'nope'"),
    ({"experts.count": 0}, "experts.count must be at least 1, or auto; got 0"),
    ({"experts.count": "ten"}, "at least 1, or auto; got 'ten'"),
    (
      {"experts.count": "auto", "remedies.relocation.every": 0},
      "auto needs.*got 0",
    ),
    ({"experts.count": "auto", "experts.auto.alike": 0.0}, "auto needs"),
    ({"train.batch_size": 61}, "batch_size=61 is larger than the 60"),
    ({"data.groups": "nope"}, "Unknown group 'nope'"),
    ({"data.groups": "label=9"}, "0 transformed/label=9"),
    ({"data.canonical": "label"}, "must look like column=value"),
    ({"experts.map": "pmap"}, "'pmap'"),
    ({"experts.norm": "layer"}, "experts.norm must be one of.*'layer'"),
    ({"experts.norm": "group"}, "identity.by_construction=False --config"),
    ({"competition.losers": "few"}, "at least 1, or all; got 'few'"),
    ({"discriminator.norm": "batch"}, "running statistics"),
    ({"train.steps": -1}, "train.steps must be at least 0; got -1"),
    ({"seed": -1}, "seed must be at least 0"),
    ({"seed": 2**32}, "seed must be a whole number of at most 4294967295"),
    ({"experts.learning_rate": math.nan}, "must be a finite number; got nan"),
    ({"experts.learning_rate": 0.0}, "must be above 0; got 0.0"),
    ({"discriminator.learning_rate": -1.0}, "must be above 0; got -1.0"),
    ({"experts.b1": 1.5}, "b1 must be at least 0 and below 1; got 1.5"),
    ({"identity.mse": -1.0}, "identity.mse must be at least 0; got -1.0"),
    ({"data.augment.shift": 5.0}, "augment.shift must be at most 1; got 5"),
    (
      {"mechanisms.noise.stddev": math.nan},
      "stddev must be a finite number",
    ),
    ({"mechanisms.noise.stddev": -1.0}, "stddev must be at least 0; got -1"),
    ({"mechanisms.shift.pixels": 100}, "must be below 32, the size of the im"),
    ({"remedies.r1.weight": math.nan}, "r1.weight must be a finite number"),
    ({"evaluation.examples": 2}, "at least one example"),
    ({"attributes.names": "label=1"}, "attributes.names needs .*groups"),
    (
      {
        "data.groups": "label=1,label=2",
        "data.canonical": "label=0",
        "attributes.names": "label=9",
      },
      "cannot learn label=9: of the 120 images .*, 0 have it",
    ),
    (
      {
        "data.groups": "label=1,label=2",
        "data.canonical": "label=0",
        "attributes.names": "label=0",
        "classifier.batch_size": 121,
      },
      "batch_size=121 is larger than the 120 images .* a probe",
    ),
    ({"detection.examples": -1}, "detection.examples must be at least 0"),
    ({"gate.changed": 1.5}, "gate.changed must be at most 1; got 1.5"),
    ({"data.augment.zoom": 1.2}, "augment.zoom must be at most 1; got 1.2"),
    (
      {"detection.examples": 1, "detection.single_network": "nowhere"},
      "finished run with one expert, .* one_network.py; .*nowhere is not",
    ),
    (
      {"detection.examples": 1, "data.groups": "label=1,label=2"},
      "detection.examples needs mechanisms that are functions",
    ),
    (
      {"chains.examples": 1, "data.groups": "label=1,label=2"},
      "chains.examples needs mechanisms that are functions",
    ),
    (
      {"pairs.steps": 1, "data.groups": "label=1,label=2"},
      "come without their originals",
    ),
    (
      {"transfer.name": "other", "data.groups": "label=1,label=2"},
      "transfer.name needs --config.attributes.names where",
    ),
  ],
)
def test_bad_input_is_refused_before_anything_is_written(
  overrides, message, tmp_path, monkeypatch
):
  pretend_installed(monkeypatch)
  with pytest.raises(types.InputError, match=message):
    image_run.train(smoke(**overrides), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_names_may_come_as_one_text():
  config = smoke(**{"mechanisms.names": ("right,invert",)})
  assert build.make_mechanisms(config)[0] == ("right", "invert")


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / "value.json"
  atomic_files.write_json(path, {"a": 1})

  def fail(*args):
    raise OSError("disk full")

  with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
    patch.setattr(os, "replace", fail)
    atomic_files.write_json(path, {"a": 2})
  assert atomic_files.read_json(path) == {"a": 1}
  with pytest.raises(ValueError, match="JSON compliant"):
    atomic_files.write_json(path, {"a": float("nan")})
  assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_events_are_due_on_multiples_and_on_the_last_step():
  assert [s for s in range(1, 8) if train_loop.due(s, 3, 7)] == [3, 6, 7]
  assert not any(train_loop.due(s, 0, 7) for s in range(1, 8))


def test_the_papers_config_has_no_remedies():
  config = mnist_paper.get_config()
  assert remedies.from_sections(config.remedies) == ()
  assert config.experts.norm == "batch"
  assert config.train.steps == 2_000
  added = remedies.from_sections(mnist.get_config().remedies)
  assert [remedy.name for remedy in added] == [
    "signature",
    "balance",
    "winner_weight",
    "r1",
    "averages",
    "relocation",
  ]


@pytest.mark.parametrize("mode", ["embedded", "full", "smoke"])
@pytest.mark.parametrize("module", [mnist, mnist_paper])
def test_configs_build(module, mode):
  config = module.get_config(mode)
  config.evaluation.update(examples=30, curve_examples=30)
  run = build.build(config)
  assert len(run.mechanisms) == (3 if mode == "smoke" else 10)


def test_unknown_modes_are_refused():
  with pytest.raises(ValueError, match="embedded, full or smoke; got 'fast'"):
    mnist.get_config("fast")


def test_a_run_interrupted_before_its_first_step_resumes(tmp_path):
  folder = tmp_path / "run"
  image_run.train(smoke(0), folder)
  image_run.train(smoke(2), folder, resume=True)
  evaluations = [
    row["step"]
    for row in run_folder.read_metrics(folder)
    if "evaluation/wins_EM" in row
  ]
  assert evaluations == [0, 2]
