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
import time
from collections.abc import Sequence

# Signals of SLURM and submitit to a job, which are none for its run.
_OF_JOBS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_POLL_S = 0.5  # Seconds between looks at a run.
# Seconds that a job waits for its end once its run was stopped.
_STAY_S = 600


def start(command: Sequence[str], log: pathlib.Path) -> subprocess.Popen:
  """Starts the process of a run, which shares no signals with this one's.

  Args:
    command: program and arguments.
    log: file to which the process adds what it writes.
  """
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open("a") as file:
    return subprocess.Popen(
      command,
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=file,
      start_new_session=True,
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

  A while before the time limit, SLURM sends a signal for which submitit calls
  `checkpoint` and queues the job again. SIGTERM comes with `scancel`, and when
  another job takes the machine; SLURM itself then queues this one again.

  Attributes:
    command: program and arguments of the run.
    log: file to which the run adds what it writes.
  """

  def __init__(self, command: Sequence[str], log: pathlib.Path):
    self.command, self.log = list(command), log
    self._process: subprocess.Popen | None = None
    self._is_stopped = self._is_told = False

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
    # SLURM sends signals to all processes of a job, SIGTERM more than once, and
    # the second one would end the run before it has saved. What is blocked here
    # remains blocked in the run, and reaches this process afterwards.
    signal.pthread_sigmask(signal.SIG_BLOCK, _OF_JOBS)
    self._process = start(command, self.log)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_JOBS)
    if self._is_stopped:  # By a signal that came before there was a process.
      self._stop()
    # A signal that comes just before a call that waits is heard after it.
    while (code := self._process.poll()) is None:
      time.sleep(_POLL_S)
    if why := problem(code, self.log):
      if self._is_told:
        # SLURM queues a job again if it ends it, and not if it ends by itself.
        time.sleep(_STAY_S)
      raise Failed(why)

  def _stop(self, number=None, frame=None) -> None:
    """Tells the run once to stop."""
    del number, frame
    self._is_stopped = True
    process = self._process
    # Between the last three lines `checkpoint` must not be called, which would
    # wait for a run that nobody stops. Blocking signals is not enough, because
    # other threads receive them. Python looks for signals after calls only, and
    # `Popen.send_signal` makes some before it sends.
    with contextlib.suppress(ProcessLookupError):  # The run has just ended.
      if process is not None and not self._is_told:
        self._is_told = True
        if process.returncode is None:
          os.kill(process.pid, signal.SIGINT)

  def checkpoint(self):
    """Stops the run, which saves; returns the job that resumes it."""
    from submitit import helpers

    self._stop()
    if self._process is not None:
      # `Popen.wait` could wait for a lock of the call that was interrupted.
      with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
    return helpers.DelayedSubmission(Job(self.command, self.log))
