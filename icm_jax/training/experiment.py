"""Which kind of run a config asks for: of images, or of sequences."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from icm_jax.training import loop, results, sequence_run
from icm_jax.training import workdir as workdir_lib

if TYPE_CHECKING:
  import ml_collections


def train(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, **options: Any
) -> dict[str, Any]:
  """Trains, evaluates and writes; options, results and errors as `loop.train`.

  Args:
    config: one with a `task` is of sequences, others are of images.
    workdir: made if it does not exist; belongs to one run.
    **options: of `loop.train`.
  """
  module = sequence_run if "task" in config else loop
  return module.train(config, workdir, **options)


def evaluate_checkpoint(workdir: pathlib.Path) -> dict[str, Any]:
  """Measures the newest checkpoint of a run again, and writes `result.json`.

  Raises:
    InputError: `workdir` holds no run, or no checkpoint that can be read.
  """
  config = workdir_lib.read(workdir).config
  module = sequence_run if "task" in config else results
  return module.evaluate_checkpoint(workdir)
