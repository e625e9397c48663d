"""The process of one run, and the job of a cluster that starts it.

A job is loaded on another machine before it starts anything, so that this file
imports neither JAX nor the library.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
from collections.abc import Sequence

# Signals by which submitit asks a job to save and to queue again.
_QUEUE_AGAIN = (signal.SIGUSR1, signal.SIGUSR2)


def start(
  command: Sequence[str], log: pathlib.Path, *, new_session: bool
) -> subprocess.Popen:
  """Starts the process of a run.

  Args:
    command: program and arguments.
    log: file to which the process adds what it writes.
    new_session: whether a signal to this process's group leaves it alone.
  """
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open("a") as file:
    return subprocess.Popen(
      command,
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=file,
      start_new_session=new_session,
    )


def problem(code: int, log: pathlib.Path) -> str:
  """Returns why a run failed: the last line that it wrote; "" if it did not.

  Args:
    code: exit code of the run's process.
    log: the file to which it has written.
  """
  if code == 0:
    return ""
  lines = log.read_text().strip().splitlines()
  return f"{lines[-1] if lines else f'exit code {code}'} (see {log})"


class Failed(Exception):
  """The run of a job failed; the message says why."""


class Job:
  """The function of a job, which submitit calls on a machine of the cluster.

  SLURM sends the signals of a job to all its processes. SIGTERM, after which
  the run saves, comes with `scancel`, and when another job takes the machine:
  SLURM itself then queues this one again. A while before the time limit another
  signal comes, for which submitit calls `checkpoint` and queues the job again.

  Attributes:
    command: program and arguments of the run.
    log: file to which the run adds what it writes.
  """

  def __init__(self, command: Sequence[str], log: pathlib.Path):
    self.command, self.log = list(command), log
    self._process: subprocess.Popen | None = None
    self._stops = False

  def __call__(self) -> None:
    """Starts or resumes the run, and waits for its end.

    Raises:
      Failed: the run failed or was stopped.
    """
    import submitit

    command = list(self.command)
    if submitit.JobEnvironment().num_tasks > 1:
      command.append("--coordinator=auto")
    signal.signal(signal.SIGTERM, self._stop)
    # The run must not end by a signal that is none for it. What is blocked here
    # remains blocked there, and reaches this process afterwards.
    signal.pthread_sigmask(signal.SIG_BLOCK, _QUEUE_AGAIN)
    self._process = start(command, self.log, new_session=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _QUEUE_AGAIN)
    if why := problem(self._process.wait(), self.log):
      raise Failed(why)

  def _stop(self, number, frame) -> None:
    del number, frame
    self._stops = True

  def checkpoint(self):
    """Stops the run, which saves; returns the job that resumes it."""
    from submitit import helpers

    if self._process is not None:
      # The run has got the SIGTERM that came here; a second one would end it
      # before it has saved.
      if not self._stops:
        self._process.terminate()
      # A signal has interrupted `wait`, which cannot be called within itself.
      with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
    return helpers.DelayedSubmission(Job(self.command, self.log))
