"""Signals that ask a program to stop, from its first import on.

SIGINT (Ctrl-C) and SIGTERM raise KeyboardInterrupt, so that files and processes
are put in order. Whatever runs at the time can swallow an exception, and
compiled code delays it. A thread therefore ends the process if the exception
does not, and at once while packages are imported or when a second signal comes.
While a run has something to save, `train_loop.stop_requests` takes the first
signal.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

KINDS = (signal.SIGINT, signal.SIGTERM)
_ACKNOWLEDGE_S = 0.5  # The main thread's time to say that it stops.
_CLEAN_S = 5.0  # The main thread's time to end afterwards.

_importing = threading.Event()
_told = threading.Lock()


def exit_code(number: int) -> int:
  """Returns the exit code of a process that a signal has stopped."""
  return 128 + number


class Stopped(KeyboardInterrupt):
  """A signal came; the argument is its number."""


def tell() -> None:
  """Says once that the process stops, and what comes next.

  Nothing is written to standard error from then on: threads of libraries that
  are stopped in the middle of their work write tracebacks.
  """
  if _told.acquire(blocking=False):
    os.write(
      2,
      b"error: stopped; files that were written before are whole, and a run "
      b"goes on with --resume\n",
    )
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _stop(number, frame) -> None:
  del frame
  if not _importing.is_set():  # The thread ends the process.
    tell()
    raise Stopped(number)


def _listen(reading: int) -> None:
  """Ends the process if the main thread does not, or at a second signal."""
  came = []
  while True:
    number = os.read(reading, 1)[0]
    if number not in KINDS:
      continue
    came.append(number)
    if _importing.is_set() or len(came) > 1:
      break
    threading.Thread(target=_wait, args=(number,), daemon=True).start()
  tell()
  os._exit(exit_code(number))


def _wait(number: int) -> None:
  time.sleep(_ACKNOWLEDGE_S)
  tell()
  time.sleep(_CLEAN_S)
  os._exit(exit_code(number))


def during_imports() -> None:
  """Makes signals end the process, if a program of this package starts.

  Python imports the package of a program with `-m` in place of its name.
  """
  if sys.argv[:1] != ["-m"]:
    return
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  _importing.set()
  for kind in KINDS:
    signal.signal(kind, _stop)
  signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
  threading.Thread(target=_listen, args=(reading,), daemon=True).start()


def after_imports() -> None:
  """Makes signals raise `Stopped` first."""
  _importing.clear()


def leave() -> None:
  """Gives signals back to Python, for a program that they end as usual."""
  if signal.getsignal(signal.SIGINT) is _stop:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
