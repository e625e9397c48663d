"""A tiny run in a process of its own, as `tests.faults` disturbs it."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = "experiments/configs/mnist.py:smoke"
STEPS = 12
VALUES = {
  "train.steps": STEPS,
  "every.log": 1,
  "every.evaluate": 4,
  "every.checkpoint": 2,
  "evaluation.curve_examples": 20,
  "evaluation.examples": 20,
  "classifier.steps": 2,
}
HANG_S = 900  # Of a process, which takes seconds on an idle machine.


class Process:
  """A run in a process of its own.

  Attributes:
    lines: what it has written to standard error so far.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    data: pathlib.Path,
    values: dict[str, object] | None = None,
    *,
    resume: str = "--resume=auto",
    environment: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
  ):
    """Starts it.

    Args:
      folder: folder of the run.
      data: folder of prepared data.
      values: values of the config besides `VALUES`.
      resume: the flag.
      environment: additional variables.
      prefix: a program, and its arguments, that starts the process.
    """
    values = {**VALUES, "data.dir": data, **(values or {})}
    self.lines: list[str] = []
    self._process = subprocess.Popen(
      [
        *prefix,
        sys.executable,
        "-m",
        "experiments.train",
        f"--config={CONFIG}",
        f"--workdir={folder}",
        resume,
        *(f"--config.{name}={value}" for name, value in values.items()),
      ],
      cwd=ROOT,
      env={**os.environ, **(environment or {})},
      stderr=subprocess.PIPE,
      text=True,
    )
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self) -> None:
    for line in self._process.stderr:
      self.lines.append(line.rstrip("\n"))

  def wait_for(self, text: str, *, within_s: float = HANG_S) -> bool:
    """Waits for a line that contains a text; False if the process ends."""
    return self.wait_until(
      lambda: any(text in line for line in self.lines), within_s=within_s
    )

  def wait_until(
    self, condition: Callable[[], bool], *, within_s: float = HANG_S
  ) -> bool:
    """Waits for a condition; False if the process ends before."""
    limit = time.monotonic() + within_s
    while self._process.poll() is None and time.monotonic() < limit:
      if condition():
        return True
      time.sleep(0.001)
    return False

  def send(self, number: int) -> None:
    """Sends a signal; one that may be handled waits for the first import.

    Python itself cannot be stopped without a traceback before.
    """
    if number in (signal.SIGINT, signal.SIGTERM):
      self.wait_until(self._handles_signals)
    self._process.send_signal(number)

  def _handles_signals(self) -> bool:
    """Whether the process has a handler of its own for SIGTERM."""
    status = pathlib.Path(f"/proc/{self._process.pid}/status")
    if not status.exists():  # Other systems than Linux do not tell.
      return bool(self.lines)
    match = re.search(r"SigCgt:\s*(\w+)", status.read_text())
    return bool(match and int(match[1], 16) >> (signal.SIGTERM - 1) & 1)

  def end(self) -> int:
    """Waits for the end; returns the exit code.

    Raises:
      TimeoutError: the process hangs; it is killed.
    """
    try:
      code = self._process.wait(HANG_S)
    except subprocess.TimeoutExpired as error:
      self._process.kill()
      raise TimeoutError(self.lines) from error
    self._reader.join()
    self._process.stderr.close()
    return code

  def errors(self) -> list[str]:
    """Returns the lines that are no progress."""
    return [line for line in self.lines if not line.startswith("[")]


def finish(*arguments, **options) -> tuple[int, Process]:
  """Runs a process to its end; returns the exit code and the process."""
  process = Process(*arguments, **options)
  return process.end(), process
