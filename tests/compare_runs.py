"""What runs have left in their folders, compared for `tests.faults`."""

from __future__ import annotations

import contextlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from icm_jax.training import checkpoint, checksums, run_folder, saved_run
from tests import run_process


def steps_of(folder: pathlib.Path) -> list[int]:
  """Returns the steps of checkpoints that are whole, the newest first."""
  steps = []
  for path in (folder / checkpoint.FOLDER).glob("*"):
    with contextlib.suppress(ValueError, FileNotFoundError):
      for item in ("arrays", "progress"):
        if not (path / item / checksums.FILE).exists():
          raise FileNotFoundError
        checksums.verify(path / item)
      steps.append(int(path.name))
  return sorted(steps, reverse=True)


def newest_of(run: run_process.Run) -> int:
  """Returns the newest step that is whole for all seeds; -1 without one."""
  steps = [set(steps_of(folder)) for folder in run.folders()]
  return max(set.intersection(*steps), default=-1)


def arrays_of(folder: pathlib.Path) -> list[np.ndarray]:
  """Returns the arrays of a run's newest checkpoint, on one device."""
  saved = saved_run.open_run(folder).saved
  keys = jax.dtypes.prng_key
  return [
    np.asarray(
      jax.random.key_data(a) if jax.dtypes.issubdtype(a.dtype, keys) else a
    )
    for a in jax.tree.leaves((saved.state, saved.classifier))
  ]


def rows_of(folder: pathlib.Path) -> list[dict]:
  """Returns the rows of metrics without their times.

  Raises:
    ValueError: a line is torn.
  """
  rows = []
  for line in (folder / run_folder.METRICS).read_text().splitlines():
    row = json.loads(line)
    del row["wall_s"]
    rows.append(row)
  return rows


def alike(a: Any, b: Any, tolerance: float) -> bool:
  """Whether two trees have the same numbers.

  Args:
    a: tree of numbers and arrays.
    b: tree of numbers and arrays.
    tolerance: distance that is allowed, relative above 1; 0 asks for the same
      bits.
  """
  if jax.tree.structure(a) != jax.tree.structure(b):
    return False

  def near(x, y) -> bool:
    x, y = np.asarray(x), np.asarray(y)
    if not tolerance:
      return x.tobytes() == y.tobytes()
    x, y = x.astype(np.float64), y.astype(np.float64)
    return bool(np.all(np.abs(x - y) <= tolerance * np.maximum(np.abs(y), 1)))

  return all(map(near, jax.tree.leaves(a), jax.tree.leaves(b)))


def differences(
  folder: pathlib.Path, whole: pathlib.Path, *, tolerance: float = 0.0
) -> list[str]:
  """Returns in which files a finished run differs from an untouched one.

  Args:
    folder: folder of the run.
    whole: folder of the untouched run.
    tolerance: see `alike`.
  """
  results = [run_folder.read_result(f) or {} for f in (folder, whole)]
  found = {
    "state": not alike(arrays_of(folder), arrays_of(whole), tolerance),
    "metrics": not alike(rows_of(folder), rows_of(whole), tolerance),
    "result": results[0].get("wins") != results[1].get("wins"),
    "leftovers": bool(
      [p for p in folder.glob(".*")]
      + [p for p in (folder / checkpoint.FOLDER).glob("*tmp*")]
    ),
  }
  return [name for name, differs in found.items() if differs]
