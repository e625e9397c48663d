"""Metrics of a run, as JSON lines and as TensorBoard events."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

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
    self._folder = workdir
    rows = [
      r for r in run_folder.read_metrics(workdir) if r["step"] <= last_step
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    atomic_files.write_bytes(workdir / run_folder.METRICS, text.encode())
    # Without a buffer, a row is written by one call of the system, which a
    # killed process has made or not.
    self._file = (workdir / run_folder.METRICS).open("ab", buffering=0)
    folder = workdir / run_folder.TENSORBOARD
    folder.mkdir(exist_ok=True)
    # TensorBoard reads files in the order of their names, and the time in a
    # name may have jumped back.
    prefix = f"events.{len(list(folder.iterdir())):06}"
    # A SummaryWriter has a thread, which dies when the disk is full; the run
    # would then wait for it for ever.
    self._events = event_file_writer.EventsWriter(str(folder / prefix))
    # TensorBoard hides what an earlier writer wrote of these steps.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add_event(last_step + 1, session_log=start)

  def write(self, step: int, wall_s: float, values: Mapping[str, Any]) -> None:
    """Writes one row.

    Args:
      step: number of completed updates.
      wall_s: seconds of training so far, summed over interrupted runs.
      values: scalars and arrays by `area/name`.

    Raises:
      InputError: the disk is full, or a file can no longer be written.
    """
    with self._explained():
      self._write(step, wall_s, values)

  def _write(self, step, wall_s, values) -> None:
    plain = {name: np.asarray(v).tolist() for name, v in values.items()}
    row = {"step": step, "wall_s": round(wall_s, 3), **plain}
    self._append((json.dumps(row) + "\n").encode())
    for name, value in values.items():
      value = np.asarray(value)
      if value.ndim == 0:
        self._add_event(step, summary=summary.scalar(name, float(value)))
      elif value.ndim == 1:
        for index, entry in enumerate(value):
          scalar = summary.scalar(f"{name}/{index}", float(entry))
          self._add_event(step, summary=scalar)
    self._events.flush()

  def _append(self, line: bytes) -> None:
    """Writes a line whole or not at all."""
    status = os.fstat(self._file.fileno())
    if not status.st_nlink:
      raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    try:
      while line:  # A disk that becomes full takes the first part of a line.
        line = line[self._file.write(line) :]
    except OSError:
      with contextlib.suppress(OSError):
        self._file.truncate(status.st_size)
      raise

  def close(self) -> None:
    """Flushes and closes both files.

    Raises:
      InputError: as `write`.
    """
    with self._explained(), contextlib.closing(self._events):
      self._file.close()

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise types.InputError(
        f"Metrics cannot be written to {self._folder} ({error.strerror}). Free "
        "space or give the folder back, and continue with --resume from the "
        "last checkpoint."
      ) from error

  def _add_event(self, step, **content) -> None:
    self._events.write_event(
      event_pb2.Event(wall_time=time.time(), step=step, **content)
    )


class NoWriter:
  """A writer that writes nothing, of all processes but the first."""

  def write(self, step: int, wall_s: float, values: Mapping[str, Any]) -> None:
    del step, wall_s, values

  def close(self) -> None:
    pass


def summarise(
  first_step: int, steps: Sequence[types.Metrics]
) -> dict[str, np.ndarray]:
  """Summarises several steps in one row: means of losses, sums of counts.

  Args:
    first_step: number of the first step.
    steps: metrics of consecutive steps, as NumPy arrays.

  Raises:
    FloatingPointError: a value is not finite; names the first such step, and
      all values that are not finite then.
  """
  for step, metrics in enumerate(steps, start=first_step):
    bad = [
      f"{name} is {_describe(value)}"
      for name, value in metrics.items()
      if not np.isfinite(value).all()
    ]
    if bad:
      raise FloatingPointError(
        f"{', '.join(bad)} at step {step}; training stopped, and the "
        "checkpoints before it are kept. Start again with lower learning "
        "rates, or with another seed."
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
