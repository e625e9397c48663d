"""Sequence tasks, the models that read them, and runs of both."""

import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import rim_adding, rim_balls, rim_copying, rim_seqmnist
from icm_jax import models, types
from icm_jax.data import sequences
from icm_jax.data.sequences import balls, digits
from icm_jax.training import (
  atomic_files,
  experiment,
  run_folder,
  sequence_run,
  sequence_setup,
  train_loop,
)
from icm_jax.viz import report

pytestmark = pytest.mark.usefixtures("drawn_data")
CONFIGS = {
  "copying": rim_copying,
  "adding": rim_adding,
  "seqmnist": rim_seqmnist,
  "balls": rim_balls,
}
KEY = jax.random.key(0)


def test_copying_asks_for_the_digits_after_the_pause():
  task = sequences.make_copying(digits=3, blanks=(2, 4))
  s = jax.device_get(task.draw(KEY, "4 blanks", 5, "test"))
  symbol_BT = s.x_BTF.argmax(axis=-1)
  assert symbol_BT.shape == (5, 3 + 4 + 3)
  shown_T = np.array([1] * 3 + [0] * 4 + [1] * 3)  # Blanks are zeros.
  np.testing.assert_array_equal(s.x_BTF.sum(axis=-1), [shown_T] * 5)
  assert (symbol_BT[:, :3] < 8).all()
  assert (symbol_BT[:, 7:] == 8).all()
  np.testing.assert_array_equal(s.target[:, 7:], symbol_BT[:, :3])
  np.testing.assert_allclose(s.weight_BT[0], [0] * 7 + [1 / 3] * 3)
  right = lambda x: 50.0 * jax.nn.one_hot(s.target, task.num_outputs)
  np.testing.assert_allclose(task.measure(right, s), 0, atol=1e-6)
  unsure = lambda x: jnp.zeros((*symbol_BT.shape, 8))
  np.testing.assert_allclose(task.measure(unsure, s), np.log(8), atol=1e-5)


def test_adding_marks_a_number_in_each_half():
  task = sequences.make_adding(lengths=(6, 9))
  s = jax.device_get(task.draw(KEY, "length 9", 7, "test"))
  value_BT, marked_BT = s.x_BTF[..., 0], s.x_BTF[..., 1]
  assert (marked_BT[:, :4].sum(axis=1) == 1).all()
  assert (marked_BT[:, 4:].sum(axis=1) == 1).all()
  sum_B = (value_BT * marked_BT).sum(axis=1)
  np.testing.assert_allclose(s.target[:, -1, 0], sum_B, rtol=1e-6)
  said = lambda x: jnp.broadcast_to(sum_B[:, None, None] + 0.5, (7, 9, 1))
  np.testing.assert_allclose(task.measure(said, s), 0.25, rtol=1e-5)


def test_digits_are_scaled_to_the_nearest_pixel_and_binarised():
  image_NHW = np.arange(16, dtype=np.uint8).reshape(1, 4, 4) * 16
  np.testing.assert_array_equal(digits.scale(image_NHW, 4), image_NHW)
  doubled = image_NHW.repeat(2, axis=1).repeat(2, axis=2)
  np.testing.assert_array_equal(digits.scale(image_NHW, 8), doubled)
  np.testing.assert_array_equal(
    digits.scale(image_NHW, 2), image_NHW[:, 1::2, 1::2]
  )
  assert digits.binarise(image_NHW).tolist() == [[0] * 8 + [1] * 8]


def test_digits_of_the_test_part_come_once_each(drawn_problem):
  task = sequences.make_digits(drawn_problem, sizes=(8, 16))
  assert task.test_examples == 40
  s = jax.device_get(task.draw(KEY, "16x16", 40, "test"))
  assert s.x_BTF.shape == (40, 256, 1)
  assert set(np.unique(s.x_BTF)) == {0, 1}
  labels = drawn_problem.images.label_N[drawn_problem.test_ids]
  assert sorted(s.target[:, -1]) == sorted(labels)
  right = lambda x: jax.nn.one_hot(s.target, task.num_outputs)
  assert (np.asarray(task.measure(right, s)) == 1).all()


def test_balls_keep_energy_and_stay_inside():
  radius = 0.1
  place_TN2 = np.asarray(balls.simulate(KEY, 4, radius, 200))
  assert (place_TN2 > radius - 0.02).all()
  assert (place_TN2 < 1 - radius + 0.02).all()
  apart_TNN = np.linalg.norm(
    place_TN2[:, :, None] - place_TN2[:, None], axis=-1
  ) + np.eye(4)
  assert apart_TNN.min() > 2 * radius - 0.04
  # Speeds of equal size at first; exchanged in collisions, not lost.
  speed_N2 = np.array([[0.03, 0.04], [-0.05, 0.0], [0.0, 0.05]])
  place_N2 = np.array([[0.4, 0.5], [0.55, 0.5], [0.2, 0.2]])
  _, after_N2 = balls.move(place_N2, speed_N2, radius)
  np.testing.assert_allclose(
    after_N2.sum(axis=0), speed_N2.sum(axis=0), atol=1e-7
  )
  np.testing.assert_allclose(
    (after_N2**2).sum(), (speed_N2**2).sum(), rtol=1e-5
  )
  np.testing.assert_allclose(after_N2[2], speed_N2[2], rtol=1e-6)
  assert after_N2[0, 0] < 0 < after_N2[1, 0]  # They met nearly head on.


def test_frames_of_balls_follow_each_other():
  task = sequences.make_balls(pixels=20, radius=0.1, seen=2, unseen=3)
  for variant in task.variants:
    s = jax.device_get(task.draw(KEY, variant, 3, "test"))
    assert s.x_BTF.shape == (3, 4, 400)
    np.testing.assert_array_equal(s.x_BTF[:, 1:], s.target[:, :-1])
    frame_BTHW = s.x_BTF.reshape(3, 4, 20, 20)
    if variant == "curtain":
      assert not frame_BTHW[..., 8:12].any()
    else:
      least, most = balls._COUNTS[variant]
      area_BT = frame_BTHW.mean(axis=(2, 3)) / (np.pi * 0.1**2)
      assert (area_BT[:, 0] > 0.8 * least).all()
      assert (area_BT < 1.2 * most).all()


def test_foreseen_frames_are_made_of_what_was_said():
  task = sequences.make_balls(pixels=4, radius=0.1, seen=2, unseen=3)
  s = task.draw(KEY, "4 balls", 2, "test")
  # It says what it reads: the last frame that was seen, again and again.
  same = lambda x: 60.0 * (2 * x - 1)
  foreseen = np.asarray(balls.rollout_cross_entropy(same, s, 2))
  seen_BF, later_BTF = np.asarray(s.x_BTF[:, 1]), np.asarray(s.target[:, 1:])
  wrong_B = (seen_BF[:, None] != later_BTF).mean(axis=(1, 2))
  np.testing.assert_allclose(foreseen, 60 * wrong_B, atol=1e-4)
  # Later frames themselves are never read.
  hidden = s._replace(x_BTF=s.x_BTF.at[:, 2:].set(7.0))
  np.testing.assert_array_equal(
    balls.rollout_cross_entropy(same, hidden, 2), foreseen
  )


@pytest.mark.parametrize(
  ("make", "fields", "message"),
  [
    (sequences.make_copying, dict(digits=0, blanks=(1,)), "at least 1; got 0"),
    (sequences.make_copying, dict(digits=1, blanks=()), "got none"),
    (sequences.make_adding, dict(lengths=(1,)), "at least 2; got 1"),
    (sequences.make_adding, dict(lengths=(5, 5)), "different lengths"),
    (
      sequences.make_balls,
      dict(pixels=4, radius=0.3, seen=1, unseen=1),
      "got 0.3",
    ),
  ],
)
def test_bad_fields_of_tasks_are_told(make, fields, message):
  with pytest.raises(types.InputError, match=message):
    make(**fields)


def make_model(name):
  fields = rim_copying.get_config("smoke").models[name].to_dict()
  return models.make_sequence_model(name, fields, num_inputs=2, num_outputs=3)


@pytest.mark.parametrize("name", ["rim", "transformer"])
def test_models_do_not_foresee(name, draw_params):
  model = make_model(name)
  params = draw_params(model.init)
  x_BTF = jax.random.normal(KEY, (2, 5, 2))
  other_BTF = x_BTF.at[0, 3:].add(1.0)
  apply = jax.jit(model.apply)
  y_BTO, other_BTO = apply(params, x_BTF), apply(params, other_BTF)
  np.testing.assert_array_equal(y_BTO[0, :3], other_BTO[0, :3])
  np.testing.assert_array_equal(y_BTO[1], other_BTO[1])
  assert (np.asarray(y_BTO[0, 3:]) != np.asarray(other_BTO[0, 3:])).any()


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("rmc", {}, "Unknown model 'rmc'; known: rim, lstm"),
    ("rim", {"sise": 3}, "unexpected keyword argument 'sise'"),
    ("lstm", {"size": 0}, "at least 1; got 0"),
    ("transformer", {"width": 5}, "multiple of its heads"),
  ],
)
def test_bad_models_are_told(name, fields, message):
  with pytest.raises(types.InputError, match=message):
    models.make_sequence_model(name, fields, num_inputs=1, num_outputs=1)


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
  return folder, experiment.train(two_models(), folder)


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
  assert report.headline(result).startswith("cross entropy, nats on 4 blanks:")


def test_resuming_in_any_model_is_exact(whole, tmp_path):
  class Impatient(train_loop.Silent):
    """Presses Ctrl-C after the first update of the second model."""

    def progress(self, step, total, values):
      if step == 2:
        os.kill(os.getpid(), signal.SIGINT)

  folder = tmp_path / "run"
  with pytest.raises(train_loop.Interrupted, match="after step 3.*--resume"):
    experiment.train(two_models(), folder, reporter=Impatient())
  resumed = experiment.train(two_models(), folder, resume=True)
  assert resumed["table"] == whole[1]["table"]
  again = experiment.evaluate_checkpoint(folder)
  for name in ("table", "test", "steps", "time"):
    assert again[name] == resumed[name]


def test_models_whose_training_has_not_begun_are_left_out(tmp_path):
  config = smoke("copying", **{"models.names": "lstm,transformer,gru"})
  run = sequence_setup.build(config)
  init = functools.partial(sequence_setup.init_state, run=run)
  state = jax.jit(init)(KEY).replace(step=jnp.int32(3))
  result = sequence_run.measure(tmp_path, config, run, state)
  assert result["updates"] == {"lstm": 2, "transformer": 1}
  assert (
    list(result["table"]) == list(result["test"]) == ["lstm", "transformer"]
  )


@pytest.mark.parametrize(
  ("task", "model"),
  [("adding", "gru"), ("seqmnist", "transformer"), ("balls", "lstm")],
)
def test_every_smoke_mode_trains(task, model):
  run = sequence_setup.build(smoke(task, **{"models.names": model}))
  init = functools.partial(sequence_setup.init_state, run=run)
  state = jax.jit(init)(KEY)
  update = functools.partial(
    sequence_run.update, name=model, run=run, batch_size=2, updates=1
  )
  state, metrics = jax.jit(update)(state)
  assert np.isfinite(metrics[f"loss/{model}"])
  hardest = run.task.draw(KEY, run.task.variants[-1], 2, "test")
  apply = functools.partial(run.networks[model].apply, state.params[model])
  assert np.isfinite(run.task.measure(jax.jit(apply), hardest)).all()


@pytest.mark.parametrize("mode", ["", "full"])
@pytest.mark.parametrize("task", CONFIGS)
def test_configs_build(task, mode):
  config = CONFIGS[task].get_config(mode)
  run = sequence_setup.build(config)
  assert list(run.networks) == ["rim", "lstm", "gru", "transformer"]
  assert (
    config.models.lstm.size == config.models.rim.rims * config.models.rim.size
  )


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"models.names": "rim,ntm"}, "Unknown model 'ntm'"),
    ({"models.names": "rim,rim"}, "each model once"),
    ({"models.rim.active": 9}, "more active RIMs than RIMs"),
    ({"train.updates": 0}, "train.updates must be at least 1; got 0"),
    ({"train.clip": 0.0}, "train.clip must be above 0"),
    ({"train.decay_from": 2.0}, r"decay_from must be in \[0, 1\]; got 2.0"),
    ({"task.blanks": (-1,)}, "at least 0; got -1"),
    ({"task.name": "sorting"}, "copying, adding, seqmnist, balls; got 'sort"),
  ],
)
def test_bad_input_is_told_before_anything_is_written(
  overrides, message, tmp_path
):
  with pytest.raises(types.InputError, match=message):
    experiment.train(smoke("copying", **overrides), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_unknown_modes_are_refused():
  for module in CONFIGS.values():
    with pytest.raises(ValueError, match="none, full or smoke; got 'fast'"):
      module.get_config("fast")
