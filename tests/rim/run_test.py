"""Runs with RIMs: from a config to a result, interrupted or not."""

import dataclasses
import functools
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import rim_adding, rim_balls, rim_copying, rim_seqmnist
from icm_jax import types
from icm_jax.rim import build, evaluate, report, run
from icm_jax.training import atomic_files, run_folder, train_loop

pytestmark = pytest.mark.usefixtures("drawn_data")
CONFIGS = {
  "copying": rim_copying,
  "adding": rim_adding,
  "seqmnist": rim_seqmnist,
  "balls": rim_balls,
}
KEY = jax.random.key(0)


def smoke(task, **overrides):
  config = CONFIGS[task].get_config("smoke")
  config.update_from_flattened_dict(overrides)
  return config


def two_models():
  return smoke("copying", **{"models.names": "rim,lstm"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run of two models without a break, and its result."""
  folder = tmp_path_factory.mktemp("runs") / "whole"
  return folder, run.train(two_models(), folder)


def test_a_run_leaves_its_result_and_its_page(whole):
  folder, result = whole
  names = ["rim", "lstm"]
  assert atomic_files.read_json(folder / run_folder.RESULT) == result
  assert list(result["test"]) == list(result["table"]) == names
  assert result["variants"] == ["2 blanks", "4 blanks"]
  for name, line in result["table"].items():
    assert line.keys() == set(result["variants"])
    assert result["test"][name] == line["4 blanks"] > 0
    assert result["parameters"][name] > 0
  assert result["steps"] == 4
  assert result["updates"] == {"rim": 2, "lstm": 2}
  rows = run_folder.read_metrics(folder)
  losses = [(r["step"], k) for r in rows for k in r if k.startswith("loss/")]
  assert losses == [
    (i + 1, f"loss/{n}") for i, n in enumerate(np.repeat(names, 2))
  ]
  assert [r["step"] for r in rows if "evaluation/rim/4 blanks" in r] == [2]
  with np.load(folder / run_folder.EXAMPLES) as arrays:
    assert arrays["rim/active_BTR/1"].shape == (3, 8, 3)
    assert (arrays["rim/active_BTR/1"].sum(axis=-1) == 2).all()
  page = report.write(folder).read_text()
  assert page.count("data:image/svg+xml") == 3
  assert "measured on test sequences" in page
  assert report.headline(result).startswith("cross entropy, nats on 4 blanks:")


def test_the_page_says_which_pictures_were_skipped(whole, tmp_path):
  folder, result = whole
  assert result["skipped_by_reason"] == {}
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  result = {**result, "skipped_by_reason": {"truncated": ["a.png"]}}
  atomic_files.write_json(copy / run_folder.RESULT, result)
  page = report.write(copy).read_text()
  assert "1 skipped: 1 truncated (a.png)" in page


def test_resuming_in_any_model_is_exact(whole, tmp_path):
  class Impatient(train_loop.Silent):
    """Presses Ctrl-C after the first update of the second model."""

    def progress(self, step, total, values):
      if step == 2:
        os.kill(os.getpid(), signal.SIGINT)

  folder = tmp_path / "run"
  with pytest.raises(train_loop.Interrupted, match="after step 3.*--resume"):
    run.train(two_models(), folder, reporter=Impatient())
  resumed = run.train(two_models(), folder, resume=True)
  assert resumed["table"] == whole[1]["table"]
  again = evaluate.evaluate_checkpoint(folder)
  for name in ("table", "test", "steps", "time"):
    assert again[name] == resumed[name]


def test_every_model_has_its_own_rate():
  rates = {"models.lstm.learning_rate": 1e-2, "models.gru.learning_rate": 1e-3}
  config = smoke("copying", **{"models.names": "lstm,gru", **rates})
  parts = build.build_run(config)
  state = jax.jit(functools.partial(build.init_state, run=parts))(KEY)
  moved = {}
  for name in parts.networks:
    update = functools.partial(
      run.update, name=name, run=parts, batch_size=2, updates=1
    )
    after, _ = jax.jit(update)(state)
    moved[name] = max(
      float(abs(a - b).max())
      for a, b in zip(
        jax.tree.leaves(after.params[name]),
        jax.tree.leaves(state.params[name]),
        strict=True,
      )
    )
  # Adam's first update moves a parameter by the rate.
  assert moved == pytest.approx({"lstm": 1e-2, "gru": 1e-3}, rel=1e-2)


def test_validation_is_not_the_test():
  drawn = {}
  for measured in ("test", "validation"):
    parts = build.build_run(smoke("copying", **{"task.measured": measured}))
    drawn[measured] = evaluate.Tests(parts, seed=0, examples=4, batch_size=2)
  one, other = (drawn[m].sequences["4 blanks"].target for m in drawn)
  assert (one != other).any()


def test_models_whose_training_has_not_begun_are_left_out(tmp_path):
  config = smoke("copying", **{"models.names": "lstm,transformer,gru"})
  parts = build.build_run(config)
  init = functools.partial(build.init_state, run=parts)
  state = dataclasses.replace(jax.jit(init)(KEY), step=jnp.int32(3))
  result = evaluate.measure(tmp_path, config, parts, state)
  assert result["updates"] == {"lstm": 2, "transformer": 1}
  assert (
    list(result["table"]) == list(result["test"]) == ["lstm", "transformer"]
  )


@pytest.mark.parametrize(
  ("task", "model"),
  [("adding", "gru"), ("seqmnist", "transformer"), ("balls", "lstm")],
)
def test_every_smoke_mode_trains(task, model):
  parts = build.build_run(smoke(task, **{"models.names": model}))
  init = functools.partial(build.init_state, run=parts)
  state = jax.jit(init)(KEY)
  update = functools.partial(
    run.update, name=model, run=parts, batch_size=2, updates=1
  )
  state, metrics = jax.jit(update)(state)
  assert np.isfinite(metrics[f"loss/{model}"])
  hardest = parts.task.draw(KEY, parts.task.variants[-1], 2, "test")
  apply = functools.partial(parts.networks[model].apply, state.params[model])
  assert np.isfinite(parts.task.measure(jax.jit(apply), hardest)).all()


@pytest.mark.parametrize("mode", ["", "full"])
@pytest.mark.parametrize("task", CONFIGS)
def test_configs_build(task, mode):
  config = CONFIGS[task].get_config(mode)
  parts = build.build_run(config)
  assert list(parts.networks) == ["rim", "lstm", "gru", "transformer"]
  if mode == "full" or task != "copying":  # As many units, as in the paper.
    units = config.models.rim.rims * config.models.rim.size
    assert config.models.lstm.size == units
    return
  state = build.abstract_state(config, parts)
  counts = {
    name: sum(leaf.size for leaf in jax.tree.leaves(params))
    for name, params in state.params.items()
  }
  for count in counts.values():
    assert count == pytest.approx(counts["rim"], rel=0.06), counts


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"models.names": "rim,ntm"}, "Unknown model 'ntm'"),
    ({"models.names": "rim,rim"}, "each model once"),
    ({"models.rim.active": 9}, "more active RIMs than RIMs"),
    ({"train.updates": 0}, "train.updates must be at least 1; got 0"),
    ({"models.gru.clip": 0.0}, "models.gru.clip must be above 0; got 0.0"),
    ({"models.rim.learning_rate": -1.0}, "rim.learning_rate must be above 0"),
    ({"task.measured": "train"}, "test, validation; got 'train'"),
    ({"train.decay_from": 2.0}, r"decay_from must be in \[0, 1\]; got 2.0"),
    ({"task.blanks": (-1,)}, "at least 0; got -1"),
    ({"task.name": "sorting"}, "copying, adding, seqmnist, balls; got 'sort"),
  ],
)
def test_bad_input_is_refused_before_anything_is_written(
  overrides, message, tmp_path
):
  with pytest.raises(types.InputError, match=message):
    run.train(smoke("copying", **overrides), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_unknown_modes_are_refused():
  for module in CONFIGS.values():
    with pytest.raises(ValueError, match="none, full or smoke; got 'fast'"):
      module.get_config("fast")
