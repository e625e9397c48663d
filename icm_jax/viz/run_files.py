"""The files of a finished run, which the pages of all kinds of runs read."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from icm_jax import types
from icm_jax.training import atomic_files, run_folder

PAGE = "report.html"


class RunFiles(NamedTuple):
  """The content of a finished run's files.

  Attributes:
    result: the content of `result.json`.
    rows: the rows of `metrics.jsonl`.
    arrays: the arrays of `examples.npz` by name.
  """

  result: dict[str, Any]
  rows: list[dict[str, Any]]
  arrays: dict[str, np.ndarray]


def read(workdir: pathlib.Path) -> RunFiles:
  """Reads the files of a finished run.

  Raises:
    InputError: the run has no result yet, or is of another format.
  """
  for name in (run_folder.RESULT, run_folder.EXAMPLES):
    if not (workdir / name).exists():
      raise types.InputError(
        f"--workdir={workdir} has no {name}; finish the run with --resume, "
        "or evaluate its checkpoint with experiments.evaluate."
      )
  run_folder.read(workdir)  # Checks the format.
  with np.load(workdir / run_folder.EXAMPLES) as archive:
    arrays = dict(archive)
  return RunFiles(
    atomic_files.read_json(workdir / run_folder.RESULT),
    run_folder.read_metrics(workdir),
    arrays,
  )


def facts(result: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
  """Returns names and values of facts about any kind of run."""
  time = result["time"]
  stages = ", ".join(
    f"{name.removesuffix('_s')} {seconds:.1f}"
    for name, seconds in time.items()
    if name != "total_s"
  )
  versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
  return (
    ("seed", str(result["seed"])),
    ("steps", str(result["steps"])),
    ("seconds", f"{time['total_s']:.1f} ({stages})"),
    ("versions", versions),
  )
