"""The table of evaluators, and the loop over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from icm_jax import types
from icm_jax.evaluation import (
  attributes,
  chains,
  detection_table,
  evaluator,
  recall_curves,
  transfer,
)

if TYPE_CHECKING:
  import ml_collections

EVALUATORS: dict[str, evaluator.Evaluator] = {
  one.name: one
  for one in (
    transfer.EVALUATOR,
    chains.EVALUATOR,
    detection_table.EVALUATOR,
    attributes.EVALUATOR,
    recall_curves.EVALUATOR,
  )
}


def check_installed(config: ml_collections.ConfigDict) -> None:
  """Checks that the packages of requested evaluators are installed.

  Raises:
    InputError: a package is missing; says how to install it.
  """
  for one in EVALUATORS.values():
    if one.is_asked(config):
      one.check_installed(config)


def build(parts: evaluator.Parts) -> dict[str, evaluator.Measure]:
  """Builds the evaluators that a config asks for.

  Returns:
    Functions that measure a trained run, by the evaluators' names.

  Raises:
    InputError: a requirement of an evaluator is not met.
  """
  built = {}
  for name, one in EVALUATORS.items():
    if one.is_asked(parts.config):
      one.check_needs(parts)
      built[name] = one.build(parts)
  return built


def measure(
  built: Mapping[str, evaluator.Measure],
  state: types.TrainState,
  classifier: types.PyTree,
  wins_EM: np.ndarray,
  margin: evaluator.Once[float],
) -> dict[str, Any]:
  """Runs the evaluators of a run.

  Args:
    built: result of `build`.
    state: state of the run.
    classifier: parameters of the evaluation classifier; empty without one.
    wins_EM: counts on the run's test images.
    margin: margin, computed when the first evaluator asks for it.

  Returns:
    The measures of every evaluator of the table, None for those that were not
    requested; and `margin`, None if no evaluator asked for it.
  """
  trained = evaluator.Trained(state, classifier, wins_EM, margin)
  measured = {
    name: built[name](trained) if name in built else None for name in EVALUATORS
  }
  return {"margin": margin.value, **measured}
