"""Ranges of a config's numbers."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from icm_jax import types

if TYPE_CHECKING:
  import ml_collections

# JAX makes keys of 32 bits, and larger seeds would repeat smaller ones.
_MAX_SEED = 2**32 - 1
_MAX_INTEGER = 2**31 - 1
# The least value of every count and size.
_AT_LEAST = {
  "seed": 0,
  "data.augment.flip": 0,
  "data.augment.shift": 0,
  "data.augment.zoom": 0,
  "data.augment.contrast": 0,
  "data.augment.brightness": 0,
  "experts.auto.most": 2,
  "experts.auto.alike": 0,
  "experts.auto.max_share": 1,
  "experts.features": 1,
  "experts.unet.levels": 1,
  "discriminator.features": 1,
  "discriminator.hidden": 1,
  "identity.max_steps": 0,
  "identity.mse": 0,
  "identity.batch_size": 1,
  "pairs.steps": 0,
  "pairs.batch_size": 1,
  "experts.half_life": 0,
  "discriminator.half_life": 0,
  "train.steps": 0,
  "train.batch_size": 1,
  "train.updates_per_dispatch": 1,
  "classifier.steps": 1,
  "classifier.batch_size": 1,
  "evaluation.batch_size": 1,
  "transfer.examples": 1,
  "detection.examples": 0,
  "chains.examples": 0,
  "chains.max_length": 1,
  "chains.width": 1,
  "gate.changed": 0,
  "gate.examples": 1,
  "every.log": 1,
  "every.evaluate": 0,
  "every.checkpoint": 0,
}

# Values that must be above 0.
_POSITIVE = (
  "experts.learning_rate",
  "discriminator.learning_rate",
  "identity.learning_rate",
  "pairs.learning_rate",
  "classifier.learning_rate",
)
# Shares and probabilities, and how much smaller a picture can become.
_AT_MOST = {
  "data.augment.flip": 1,
  "data.augment.shift": 1,
  "data.augment.contrast": 1,
  "data.augment.brightness": 1,
  "data.augment.zoom": 1,
  "gate.changed": 1,
}


def check(config: ml_collections.ConfigDict) -> None:
  """Checks that the config's numbers lie in their ranges.

  Raises:
    InputError: a number is out of its range; names the first one.
  """
  check_numbers(config)
  check_least(config, _AT_LEAST)
  for path in _POSITIVE:
    value = _value(config, path)
    if not value > 0:
      raise types.InputError(f"--config.{path} must be above 0; got {value!r}.")
  for path in ("experts.b1", "discriminator.b1"):
    value = _value(config, path)
    if not 0 <= value < 1:
      raise types.InputError(
        f"--config.{path} must be at least 0 and below 1; got {value!r}."
      )
  for path, bound in _AT_MOST.items():
    value = _value(config, path)
    if value > bound:
      raise types.InputError(
        f"--config.{path} must be at most {bound}; got {value}."
      )
  stride = config.train.updates_per_dispatch
  for path, steps in (
    ("train.steps", config.train.steps),
    *((f"every.{name}", steps) for name, steps in config.every.items()),
  ):
    if steps % stride:
      raise types.InputError(
        f"--config.{path} must be a multiple of "
        f"--config.train.updates_per_dispatch, {stride}; got {steps}."
      )


def check_numbers(config: ml_collections.ConfigDict) -> None:
  """Checks that every number can be computed with, and the seed is a seed.

  Raises:
    InputError: the first one that is not.
  """
  for path, value in _leaves(config.to_dict()):
    if isinstance(value, float) and not math.isfinite(value):
      raise types.InputError(
        f"--config.{path} must be a finite number; got {value}."
      )
    # JAX counts in 32 bits.
    if isinstance(value, int) and path != "seed" and value > _MAX_INTEGER:
      raise types.InputError(
        f"--config.{path} must be at most {_MAX_INTEGER}; got {value}."
      )
  seed = _value(config, "seed")
  if not isinstance(seed, int) or seed > _MAX_SEED:
    raise types.InputError(
      f"--config.seed must be a whole number of at most {_MAX_SEED}; got "
      f"{seed!r}."
    )


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
  """Values of nested dicts and tuples, with their paths."""
  if isinstance(tree, Mapping):
    for name, value in tree.items():
      yield from _leaves(value, f"{path}.{name}" if path else str(name))
  elif isinstance(tree, list | tuple):
    for value in tree:
      yield from _leaves(value, path)
  else:
    yield path, tree


def check_least(
  config: ml_collections.ConfigDict, least: Mapping[str, float]
) -> None:
  """Checks values of a config against their least values.

  Args:
    config: config of a run.
    least: least values by path, such as "train.steps".

  Raises:
    InputError: a value is below its least value; names the first one.
  """
  for path, bound in least.items():
    value = _value(config, path)
    if value < bound:
      raise types.InputError(
        f"--config.{path} must be at least {bound}; got {value}."
      )


def _value(config: ml_collections.ConfigDict, path: str) -> float:
  """The number at a path.

  Raises:
    InputError: there is none.
  """
  try:
    value = functools.reduce(operator.getitem, path.split("."), config)
  except (KeyError, TypeError) as error:
    raise types.InputError(
      f"The config has no {path}; start from a copy of a config that comes "
      "with the package, and keep all of its keys."
    ) from error
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise types.InputError(f"--config.{path} must be a number; got {value!r}.")
  return value
