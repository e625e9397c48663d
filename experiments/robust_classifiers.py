"""Classifiers of clean digits, as `experiments.robustness` compares them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import serialization

from icm_jax import mechanisms, models, rng, types
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import augmix
from icm_jax.evaluation import classifier as classifier_lib
from icm_jax.mechanisms import corruptions
from icm_jax.training import atomic_files

# Classifiers by name: their normalisation.
CLASSIFIERS = {
  "plain": "none",
  "normalised": "batch",
  "augmix": "none",
  "corruptions": "none",
}


def train(
  name: str, config: ml_collections.ConfigDict, problem: problem_lib.Problem
) -> dict[str, types.PyTree]:
  """Trains a classifier on the digits of the training part.

  Args:
    name: key of `CLASSIFIERS`.
    config: config of the experts.
    problem: digits.

  Returns:
    `params` and `stats`.
  """
  options: dict[str, Any] = {}
  if name == "augmix":
    options = dict(views=augmix.views(config.seed), loss=augmix.loss)
  elif name == "corruptions":
    options = dict(views=_corrupted(config.seed))
  params, stats = classifier_lib.train_classifier(
    network(name, problem),
    problem.images.image_NHWC,
    problem.images.label_N,
    problem.train_ids,
    seed=config.seed,
    **config.classifier,
    **options,
  )
  return {"params": jax.device_get(params), "stats": jax.device_get(stats)}


def network(name: str, problem: problem_lib.Problem) -> types.Network:
  num_classes = int(problem.images.label_N.max()) + 1
  module = models.ConvClassifier(num_classes, norm=CLASSIFIERS[name])
  return models.from_linen(module, problem.shape_HWC)


def _corrupted(seed: int) -> classifier_lib.Views:
  """Shows each image clean or under one corruption, all equally often."""
  functions = mechanisms.by_names(tuple(corruptions.BENCHMARK.values()), {})
  choices = (lambda key, x_HWC: x_HWC, *functions)

  @jax.jit
  def distort(image_BHWC, step):
    key = rng.stream(jax.random.key(seed), "corruptions known", step)
    x_BHWC = problem_lib.to_float(image_BHWC)
    x_BHWC, _ = mechanisms.apply_mixture(key, x_BHWC, choices)
    return jnp.round(255 * x_BHWC).astype(jnp.uint8)

  return lambda image_BHWC, step: distort(image_BHWC, jnp.int32(step))


def read_or_train(
  folder: pathlib.Path,
  config: ml_collections.ConfigDict,
  problem: problem_lib.Problem,
  say: Callable[[str], None],
) -> dict[str, dict[str, types.PyTree]]:
  """Trains the classifiers that the folder does not have yet.

  Args:
    folder: folder of the seed.
    config: config of the experts.
    problem: digits.
    say: receives messages.

  Returns:
    By the names of `CLASSIFIERS`, `params` and `stats`.
  """
  asked = {**config.classifier, "data": dict(problem.images.digests)}
  trained = {}
  for name in CLASSIFIERS:
    path = folder / f"{name}.msgpack"
    made = network(name, problem)
    params, stats = jax.eval_shape(made.init, jax.random.key(0))
    empty = {
      "asked": json.dumps(asked, sort_keys=True),
      "params": params,
      "stats": stats,
    }
    found = _read(path, empty)
    if found is None:
      say(f"training a classifier: {name}")
      found = {**empty, **train(name, config, problem)}
      atomic_files.write_bytes(path, serialization.to_bytes(found))
    trained[name] = found
  return trained


def _read(path: pathlib.Path, like: dict[str, Any]) -> dict[str, Any] | None:
  """Reads a classifier; None if there is none, or one of another config."""
  if not path.exists():
    return None
  try:
    found = serialization.from_bytes(like, path.read_bytes())
  # msgpack and flax raise many kinds of errors for damaged files.
  except Exception:
    return None
  return found if found["asked"] == like["asked"] else None
