"""The files of a finished run, which the pages of all kinds of runs read."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from icm_jax import types
from icm_jax.training import run_folder


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
    InputError: the run has no result yet, is of another format, or its files
      are damaged.
  """
  for name in (run_folder.RESULT, run_folder.EXAMPLES):
    if not (workdir / name).exists():
      raise types.InputError(
        f"--workdir={workdir} has no {name}; finish the run with --resume, "
        "or evaluate its checkpoint with experiments.evaluate."
      )
  run_folder.read(workdir)  # Makes sure of the format.
  result = run_folder.read_result(workdir)
  assert result is not None  # As was checked above.
  return RunFiles(
    result,
    run_folder.read_metrics(workdir),
    _read_arrays(workdir / run_folder.EXAMPLES),
  )


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads all arrays of a file.

  Raises:
    InputError: the file is damaged.
  """
  try:
    with np.load(io.BytesIO(path.read_bytes())) as archive:
      return dict(archive)
  # Zips that are empty, cut or changed raise many kinds.
  except Exception as error:
    raise types.InputError(
      f"{path} is damaged ({error or type(error).__name__}). Write it again "
      "with experiments.evaluate."
    ) from error


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
