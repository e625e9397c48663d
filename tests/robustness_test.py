"""Classifiers behind experts: the benchmark, and the program on a small one."""

import functools
import json

import numpy as np
import pytest

from experiments import console, robust_classifiers, robust_study
from experiments.configs import mnist_c as mnist_c_config
from icm_jax import types
from icm_jax.evaluation import mnist_c
from icm_jax.mechanisms import corruptions
from icm_jax.training import build
from tests.builders import mnist_c_test

KINDS = ("identity", *corruptions.BENCHMARK)


def test_the_benchmark_is_read(tmp_path):
  manual = tmp_path / "manual"
  mnist_c_test.write(manual, mnist_c_test.tree(**dict.fromkeys(KINDS, 4)))
  read = functools.partial(
    mnist_c.read, image_size=28, data_dir=str(tmp_path / "data"), most=2
  )
  found = read(str(manual))
  assert tuple(found.image_NHWC) == KINDS
  for seed, name in enumerate(KINDS):
    # Two of four, evenly spread.
    np.testing.assert_array_equal(
      found.image_NHWC[name], mnist_c_test.images(4, seed)[[0, 2]]
    )
    np.testing.assert_array_equal(found.label_N[name], [0, 2])
  assert read(str(manual)).digest == found.digest
  assert read(str(manual), most=3).digest != found.digest


def test_a_benchmark_that_lacks_a_corruption_is_refused(tmp_path):
  manual = tmp_path / "manual"
  mnist_c_test.write(manual, mnist_c_test.tree(identity=2, fog=2))
  with pytest.raises(types.InputError, match="no images of shot_noise, "):
    mnist_c.read(
      str(manual), image_size=28, data_dir=str(tmp_path / "data"), most=2
    )


def test_the_benchmark_is_made_of_test_digits(drawn_problem, monkeypatch):
  monkeypatch.setattr(corruptions, "BENCHMARK", {"translate": "translate"})
  made = mnist_c.make(drawn_problem, 5)
  assert tuple(made.image_NHWC) == ("identity", "translate")
  clean = made.image_NHWC["identity"]
  ids = drawn_problem.test_ids
  chosen = ids[np.arange(5) * len(ids) // 5]
  np.testing.assert_array_equal(clean, drawn_problem.images.image_NHWC[chosen])
  moved = made.image_NHWC["translate"]
  assert moved.dtype == np.uint8
  assert all(
    any(
      (moved[b] == np.roll(clean[b], (up, right), (0, 1)))[4:-4, 4:-4].all()
      for up in (-3, 3)
      for right in (-3, 3)
    )
    for b in range(5)
  )
  assert mnist_c.make(drawn_problem, 5).digest == made.digest


def test_images_without_classes_are_refused_before_training(
  tmp_path, monkeypatch, drawn
):
  nameless = drawn._replace(
    images=drawn.images._replace(
      columns={k: v for k, v in drawn.images.columns.items() if k != "label"}
    )
  )
  monkeypatch.setattr(build.sources, "load", lambda name, **kwargs: nameless)
  with pytest.raises(types.InputError, match="needs grey images with classes"):
    robust_study.run(
      tmp_path, mnist_c_config.get_config("smoke"), [0], benchmark="", most=6,
      reporter=console.Plain(),
    )  # fmt: skip
  assert not list((tmp_path / "seed_0").iterdir())


def test_the_program_measures_every_method(
  tmp_path, monkeypatch, drawn, capsys
):
  # Other fronts differ by their configs alone.
  config = mnist_c_config.get_config("smoke")
  config.mechanisms.names = ("brightness", "translate", "stripe")
  monkeypatch.setattr(build.sources, "load", lambda name, **kwargs: drawn)
  monkeypatch.setattr(corruptions, "BENCHMARK", {"brightness": "brightness"})
  names = ("plain", "normalised")
  kinds = {name: robust_classifiers.CLASSIFIERS[name] for name in names}
  monkeypatch.setattr(robust_classifiers, "CLASSIFIERS", kinds)
  front = {"experts": robust_study.FRONTS["experts"]}
  monkeypatch.setattr(robust_study, "FRONTS", front)
  methods = {
    column: method
    for column, method in robust_study.METHODS.items()
    if method.front in ("", "experts") and method.classifier in names
  }
  assert len(methods) == 7
  monkeypatch.setattr(robust_study, "METHODS", methods)
  root = tmp_path / "robust"

  def run():
    robust_study.run(
      root, config, [4], benchmark="", most=6, reporter=console.Plain()
    )

  run()
  table = (root / "robustness.md").read_text()
  assert table in capsys.readouterr().err
  lines = [line.split(" | ") for line in table.strip().splitlines()]
  assert [len(line) for line in lines] == [8] * 6
  (measured,) = json.loads((root / "robustness.json").read_text())
  assert measured["seed"] == 4
  for column in methods:
    error = measured["error"][column]
    assert set(error) == {"identity", "brightness"}
    assert measured["mean"][column] == error["brightness"]
    assert 0 <= error["brightness"] <= 100
  assert (root / "robustness.png").read_bytes()[:4] == b"\x89PNG"
  # What is finished is not repeated, and a damaged classifier is.
  for name, text in (("errors.json", None), ("plain.msgpack", "cut")):
    path = root / "seed_4" / name
    path.unlink()
    if text:
      path.write_text(text)
  run()
  said = capsys.readouterr().err
  assert "training a classifier: plain" in said
  assert "training a classifier: normalised" not in said
  assert "compiling the step" not in said
  run()
  assert "measuring" not in capsys.readouterr().err
  (again,) = json.loads((root / "robustness.json").read_text())
  assert again["error"] == measured["error"]
