"""Ctrl-C while a program still imports its packages, which takes seconds."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130  # Exit code.


def _stop(number, frame) -> None:
  del number, frame
  # An exception could be swallowed by whatever is imported at the time, and
  # nothing is there yet that would have to be put in order.
  os.write(2, b"error: stopped before a checkpoint could be saved\n")
  os._exit(INTERRUPTED)


def during_imports() -> None:
  """Makes Ctrl-C end the process at once, if a program of this package starts.

  Python imports the package of a program with `-m` in place of its name.
  """
  if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, _stop)


def after_imports() -> None:
  """Makes Ctrl-C raise KeyboardInterrupt again."""
  if signal.getsignal(signal.SIGINT) is _stop:
    signal.signal(signal.SIGINT, signal.default_int_handler)
