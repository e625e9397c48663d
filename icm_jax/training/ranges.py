"""Ranges of a config's numbers."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING

from icm_jax import types

if TYPE_CHECKING:
  import ml_collections

# The least value of each number of the config.
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

# The largest value of shares, probabilities and the relative change of a side.
_AT_MOST = {
  "data.augment.flip": 1,
  "data.augment.zoom": 1,
  "gate.changed": 1,
}


def check(config: ml_collections.ConfigDict) -> None:
  """Checks that the config's numbers lie in their ranges.

  Raises:
    InputError: a number is out of its range; names the first one.
  """
  check_least(config, _AT_LEAST)
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
  return functools.reduce(operator.getitem, path.split("."), config)
