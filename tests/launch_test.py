"""Errors of programs are one line and an exit code."""

import errno
import os

import pytest
from absl import app

from experiments import launch


@pytest.fixture
def code_of(monkeypatch):
  """A function that runs a program's main function; returns the exit code."""

  def code_of(main):
    codes = []
    monkeypatch.setattr(
      app, "run", lambda guarded, **kwargs: codes.append(guarded(["program"]))
    )
    launch.run(main)
    return codes[0]

  return code_of


@pytest.mark.parametrize(
  "number", [errno.ENOSPC, errno.EROFS, errno.ENAMETOOLONG, errno.EACCES]
)
def test_disks_are_at_fault_in_one_line(number, code_of, capsys):
  def main():
    raise OSError(number, os.strerror(number), "out/result.json")

  assert code_of(main) == 2
  assert capsys.readouterr().err == (
    "error: out/result.json cannot be read or written "
    f"({os.strerror(number)}). Change permissions or free space, or choose "
    "another folder.\n"
  )


def test_other_errors_keep_their_traceback(code_of):
  def main():
    raise FileNotFoundError(errno.ENOENT, "No such file", "of_this_package")

  with pytest.raises(FileNotFoundError):
    code_of(main)
