"""Metrics of several seeds at once: rows of each, and means for the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icm_jax.training import metrics, train_loop


class Writers:
  """Writers of all seeds, each of which gets its own values."""

  def __init__(self, writers: Sequence[metrics.MetricWriter]):
    self._writers = writers

  def write(self, step: int, wall_s: float, values: Mapping[str, Any]) -> None:
    for index, writer in enumerate(self._writers):
      own = {name: value[index] for name, value in values.items()}
      writer.write(step, wall_s, own)

  def close(self) -> None:
    for writer in self._writers:
      writer.close()


class Means:
  """Reports the means over all seeds."""

  def __init__(self, reporter: train_loop.Reporter):
    self._reporter = reporter

  def say(self, text: str) -> None:
    self._reporter.say(text)

  def progress(
    self, step: int, total: int, values: Mapping[str, np.ndarray]
  ) -> None:
    means = {name: value.mean(axis=0) for name, value in values.items()}
    self._reporter.progress(step, total, means)

  def prepare(self, what: str, done: int, total: int) -> None:
    self._reporter.prepare(what, done, total)
