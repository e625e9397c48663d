"""Which kind of run a config asks for: of images, or of sequences."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from icm_jax.training import image_run, run_folder, run_result, sequence_run

if TYPE_CHECKING:
  import ml_collections


def train(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, **options: Any
) -> dict[str, Any]:
  """Trains, evaluates and writes; returns and raises as `image_run.train` does.

  Args:
    config: one with a `task` is of sequences, others are of images.
    workdir: made if it does not exist; belongs to one run.
    **options: of `image_run.train`.
  """
  module = sequence_run if "task" in config else image_run
  return module.train(config, workdir, **options)


def evaluate_checkpoint(workdir: pathlib.Path) -> dict[str, Any]:
  """Measures the newest checkpoint of a run again, and writes `result.json`.

  Raises:
    InputError: `workdir` holds no run, or no checkpoint that can be read.
  """
  config = run_folder.read(workdir).config
  module = sequence_run if "task" in config else run_result
  return module.evaluate_checkpoint(workdir)
