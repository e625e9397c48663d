"""Reporters: a progress bar for a person, plain lines for a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import numpy as np
import tqdm

# Seconds between two lines about the preparation of data.
_PREPARE_EVERY = 5.0


def reporter() -> Plain | Bar:
  """Returns a bar if standard error is a terminal, otherwise plain lines."""
  return Bar() if sys.stderr.isatty() else Plain()


class Plain:
  """Reports by lines with the time since the start."""

  def __init__(self):
    self._start = time.perf_counter()
    self._first: tuple[int, float] | None = None
    self._prepared = ("", self._start)

  def say(self, text: str) -> None:
    seconds = time.perf_counter() - self._start
    print(f"[{seconds:7.1f} s] {text}", file=sys.stderr, flush=True)

  def progress(
    self, step: int, total: int, values: Mapping[str, np.ndarray]
  ) -> None:
    now = time.perf_counter()
    if self._first is None:
      self._first = (step, now)
    first_step, first_time = self._first
    speed = ""
    if step > first_step:
      rate = (step - first_step) / (now - first_time)
      left = (total - step) / rate
      speed = f"  {rate:.2f} steps/s  {left:.0f} s left"
    self.say(f"step {step}/{total}  {describe(values)}{speed}")

  def prepare(self, what: str, done: int, total: int) -> None:
    """Reports the progress of preparing; a total of 0 is unknown."""
    now = time.perf_counter()
    if what != self._prepared[0]:
      self._prepared = (what, now)
    if 0 < total == done or now - self._prepared[1] >= _PREPARE_EVERY:
      self._prepared = (what, now)
      self.say(f"{what} {done:,}" + f"/{total:,}" * bool(total))


class Bar:
  """Reports by a progress bar, with lines of text above it."""

  def __init__(self):
    self._bar: tqdm.tqdm | None = None
    self._prepare_bar: tqdm.tqdm | None = None
    self._preparing = ("", 0)

  def say(self, text: str) -> None:
    tqdm.tqdm.write(text, file=sys.stderr)

  def progress(
    self, step: int, total: int, values: Mapping[str, np.ndarray]
  ) -> None:
    if self._bar is None:
      self._bar = tqdm.tqdm(
        total=total, initial=step, unit="step", dynamic_ncols=True
      )
    self._bar.set_postfix_str(describe(values), refresh=False)
    self._bar.update(step - self._bar.n)
    if step == total:
      self._bar.close()

  def prepare(self, what: str, done: int, total: int) -> None:
    """Shows the progress of preparing; a total of 0 is unknown."""
    if (what, total) != self._preparing:
      self._end_preparing()
      self._preparing = (what, total)
    if self._prepare_bar is None:
      self._prepare_bar = tqdm.tqdm(
        desc=what, total=total or None, unit="image", dynamic_ncols=True
      )
    self._prepare_bar.update(done - self._prepare_bar.n)
    if 0 < total == done:
      self._end_preparing()

  def _end_preparing(self) -> None:
    if self._prepare_bar is not None:
      self._prepare_bar.close()
      self._prepare_bar = None


def describe(values: Mapping[str, np.ndarray]) -> str:
  """Returns losses, and each expert's share of wins in percent, as text."""
  if "competition/wins_E" not in values:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
  wins_E = values["competition/wins_E"]
  shares = " ".join(f"{s:.0f}" for s in 100 * wins_E / max(wins_E.sum(), 1))
  return (
    f"expert {values['loss/expert']:.3f}  "
    f"discriminator {values['loss/discriminator']:.3f}  wins% {shares}"
  )
