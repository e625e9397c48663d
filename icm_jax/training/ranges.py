"""Ranges of a config's numbers, checked before anything else is done."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING

from icm_jax import types

if TYPE_CHECKING:
  import ml_collections

# The least value of every count; learning rates and sizes must be positive.
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
  "relocation.every": 0,
  "experts.half_life": 0,
  "discriminator.half_life": 0,
  "competition.balance": 0,
  "competition.signature": 0,
  "competition.winner_weight": 0,
  "competition.r1": 0,
  "competition.identity": 0,
  "competition.criterion_identity": 0,
  "competition.criterion_cycle": 0,
  "competition.average_steps": 0,
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

# Shares and probabilities, and how much smaller a picture can become.
_AT_MOST = {
  "data.augment.flip": 1,
  "data.augment.zoom": 1,
  "competition.winner_weight": 1,
  "gate.changed": 1,
}


def check(config: ml_collections.ConfigDict) -> None:
  """Checks that numbers lie in their ranges.

  Raises:
    InputError: the first one that does not.
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
  """Checks values against the least that each may be, by its path.

  Raises:
    InputError: the first one that is below.
  """
  for path, bound in least.items():
    value = _value(config, path)
    if value < bound:
      raise types.InputError(
        f"--config.{path} must be at least {bound}; got {value}."
      )


def _value(config: ml_collections.ConfigDict, path: str) -> float:
  return functools.reduce(operator.getitem, path.split("."), config)
