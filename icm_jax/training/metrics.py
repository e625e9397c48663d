"""Metrics of a run, as JSON lines and as TensorBoard events."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorboardX

from icm_jax import types
from icm_jax.training import atomic_files, run_folder


class MetricWriter:
  """Appends rows to `metrics.jsonl` and scalars to TensorBoard events."""

  def __init__(self, workdir: pathlib.Path, *, last_step: int):
    """Opens the files, and drops rows after `last_step`.

    Args:
      workdir: folder of the run, which exists.
      last_step: step from which the run continues; -1 for a new run.
    """
    rows = [
      r for r in run_folder.read_metrics(workdir) if r["step"] <= last_step
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    atomic_files.write_bytes(workdir / run_folder.METRICS, text.encode())
    self._file = (workdir / run_folder.METRICS).open("a")
    self._events = tensorboardX.SummaryWriter(
      str(workdir / run_folder.TENSORBOARD), purge_step=last_step + 1
    )

  def write(self, step: int, wall_s: float, values: Mapping[str, Any]) -> None:
    """Writes one row.

    Args:
      step: number of completed updates.
      wall_s: seconds of training so far, summed over interrupted runs.
      values: scalars and arrays by `area/name`.
    """
    plain = {name: np.asarray(v).tolist() for name, v in values.items()}
    row = {"step": step, "wall_s": round(wall_s, 3), **plain}
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()
    for name, value in values.items():
      value = np.asarray(value)
      if value.ndim == 0:
        self._events.add_scalar(name, float(value), step)
      elif value.ndim == 1:
        for index, entry in enumerate(value):
          self._events.add_scalar(f"{name}/{index}", float(entry), step)

  def close(self) -> None:
    """Flushes and closes both files."""
    self._file.close()
    self._events.close()


def summarise(
  first_step: int, steps: Sequence[types.Metrics]
) -> dict[str, np.ndarray]:
  """Summarises several steps in one row: means of losses, sums of counts.

  Args:
    first_step: number of the first step.
    steps: metrics of consecutive steps, as NumPy arrays.

  Raises:
    FloatingPointError: a value is not finite; names the first such step.
  """
  for step, metrics in enumerate(steps, start=first_step):
    for name, value in metrics.items():
      if not np.isfinite(value).all():
        raise FloatingPointError(
          f"{name} is {_describe(value)} at step {step}; training stopped. "
          "Lower the learning rates, or start again with another seed."
        )
  row = {}
  for name in steps[0]:
    values = np.stack([metrics[name] for metrics in steps])
    is_loss = name.startswith("loss/")
    row[name] = values.mean(axis=0) if is_loss else values.sum(axis=0)
  return row


def _describe(value: Any) -> str:
  bad = np.asarray(value)[~np.isfinite(value)].ravel()
  return "NaN" if math.isnan(bad[0]) else str(bad[0])
