"""Tiny runs in processes of their own, as `tests.faults` disturbs them."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

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
HANG_S = 900  # Limit of a process, which takes seconds on an idle machine.


class Form(NamedTuple):
  """How a run is started.

  Attributes:
    name: words for tables.
    flags: flags besides those of every run.
    devices: number of CPU devices of each process.
    processes: number of processes that train the run together.
    seeds: number of seeds, each of which has a folder; 0 is a plain run.
    last: form in which a disturbed run is trained to its end; None is the same.
    tolerance: distance from an untouched run that is allowed then; 0 asks for
      the same bits.
  """

  name: str = "1 device"
  flags: tuple[str, ...] = ()
  devices: int = 1
  processes: int = 1
  seeds: int = 0
  last: Form | None = None
  tolerance: float = 0.0


# Values that two devices along each axis can divide.
_EVEN = ("--config.experts.count=4", "--config.train.batch_size=8")
_MESH = Form(
  "4 devices",
  (*_EVEN, "--config.mesh.data=2", "--config.mesh.expert=2"),
  devices=4,
)
FORMS = (
  Form(),
  _MESH,
  _MESH._replace(
    name="4 devices, then 1", last=Form(flags=_EVEN), tolerance=1e-5
  ),
  Form("4 seeds at once", ("--seeds=0-3",), devices=4, seeds=4),
  Form("2 processes", _EVEN, processes=2),
)


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
    flags: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
  ):
    """Starts it.

    Args:
      folder: folder of the run.
      data: folder of prepared data.
      values: values of the config besides `VALUES`.
      resume: the flag.
      flags: additional flags.
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
        *flags,
      ],
      cwd=ROOT,
      env={**os.environ, **(environment or {})},
      stdout=subprocess.DEVNULL,
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

  def end(self, *, within_s: float = HANG_S) -> int:
    """Waits for the end; returns the exit code.

    Raises:
      TimeoutError: the process hangs; it is killed.
    """
    try:
      code = self._process.wait(within_s)
    except subprocess.TimeoutExpired as error:
      self._process.kill()
      raise TimeoutError(self.lines) from error
    self._reader.join()
    self._process.stderr.close()
    return code

  def kill(self) -> None:
    """Ends it at once, if it has not ended."""
    self._process.kill()

  def errors(self) -> list[str]:
    """Returns the lines that are no progress."""
    return [line for line in self.lines if not line.startswith("[")]


def finish(*arguments, **options) -> tuple[int, Process]:
  """Runs a process to its end; returns the exit code and the process."""
  process = Process(*arguments, **options)
  return process.end(), process


class Run(NamedTuple):
  """A run that is started, disturbed and resumed.

  Attributes:
    folder: its working directory.
    data: folder of prepared data.
    form: how it is started.
  """

  folder: pathlib.Path
  data: pathlib.Path
  form: Form = Form()

  def folders(self) -> list[pathlib.Path]:
    """Returns the folders of its files, one for each seed."""
    seeds = range(self.form.seeds)
    return [self.folder / f"seed_{n}" for n in seeds] or [self.folder]

  def start(self) -> list[Process]:
    """Starts or resumes it; the first one of its processes reports."""
    form, own = self.form, [()]
    if form.processes > 1:
      with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
      own = [
        (
          f"--coordinator={address}",
          f"--processes={form.processes}",
          f"--process={index}",
        )
        for index in range(form.processes)
      ]
    flags = (
      f"{os.environ.get('XLA_FLAGS', '')} "
      f"--xla_force_host_platform_device_count={form.devices}"
    )
    return [
      Process(
        self.folder,
        self.data,
        flags=(*form.flags, *more),
        environment={"XLA_FLAGS": flags},
      )
      for more in own
    ]
