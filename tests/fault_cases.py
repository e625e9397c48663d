"""Faults of disks, clocks, data and numbers, each met by a tiny run.

Each case raises AssertionError if a run does something else than it should.
Some cases need a file system of their own, which only root may mount; they are
left out where that is not possible.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator

import numpy as np
import PIL.Image

from icm_jax.training import checkpoint, run_folder
from tests import compare_runs, faults, run_process

# Replaces functions of Python before the program starts.
_NO_LOCKS = """
  import errno, fcntl
  def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
  fcntl.flock = flock
"""
_JUMPING_CLOCK = """
  import itertools, time
  def jump(real, scale):
    count = itertools.count()
    return lambda: real() - scale * 3600 * (next(count) % 7) ** 2
  time.time, time.time_ns = jump(time.time, 1), jump(time.time_ns, 10**9)
"""
# The same for calls of compiled code.
_NO_LOCKS_C = """
  #define _GNU_SOURCE
  #include <dlfcn.h>
  #include <errno.h>
  #include <fcntl.h>
  #include <stdarg.h>
  int flock(int file, int what) { errno = ENOLCK; return -1; }
  #define LOCKS(name) \\
    int name(int file, int command, ...) { \\
      va_list list; va_start(list, command); \\
      void* argument = va_arg(list, void*); va_end(list); \\
      if (command == F_SETLK || command == F_SETLKW || \\
          command == F_OFD_SETLK || command == F_OFD_SETLKW) { \\
        errno = ENOLCK; return -1; \\
      } \\
      int (*next)(int, int, ...) = dlsym(RTLD_NEXT, #name); \\
      return next(file, command, argument); \\
    }
  LOCKS(fcntl)
  LOCKS(fcntl64)
"""


class NotPossible(Exception):
  """The machine cannot bring the fault about; the message says why."""


@contextlib.contextmanager
def mounted(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
  """A small file system of its own."""
  folder.mkdir()
  options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
  if subprocess.run(["mount", *options], capture_output=True).returncode:  # noqa: PLW1510
    raise NotPossible("no file system can be mounted")
  try:
    yield folder
  finally:
    subprocess.run(["umount", "-l", str(folder)], check=True)


def expect(process, code: int, expected: int, *texts: str) -> None:
  """Checks an exit code, and the one line that explains it."""
  lines = process.errors()
  assert code == expected, (code, process.lines)
  assert len(lines) == (1 if expected else 0), lines
  for text in texts:
    assert text in " ".join(process.lines), (text, process.lines)


def ends_as(folder, data, whole, **options) -> None:
  """Resumes a run to its end, which must be that of an untouched one."""
  code, process = run_process.finish(folder, data, **options)
  expect(process, code, 0)
  found = compare_runs.differences(folder, whole)
  assert not found, found


def _largest(folder: pathlib.Path) -> pathlib.Path:
  """Returns the largest file of the arrays of a run's newest checkpoint."""
  newest = compare_runs.steps_of(folder)[0]
  arrays = folder / checkpoint.FOLDER / f"{newest}" / "arrays"
  return max(arrays.rglob("*"), key=lambda path: path.stat().st_size)


def _expect_warning(process, text: str) -> None:
  told = [line for line in process.lines if "warning: " in line]
  assert len(told) == 1, told
  assert text in told[0], told


def damaged(damage: Callable[[pathlib.Path], None]):
  """A case: a file of the newest checkpoint is damaged."""

  def case(root, data, whole):
    folder = root / "run"
    shutil.copytree(whole, folder)
    newest, before = compare_runs.steps_of(folder)[:2]
    damage(_largest(folder))
    code, process = run_process.finish(folder, data)
    expect(process, code, 0, f"resuming at step {before}")
    _expect_warning(process, f"the checkpoint of step {newest} is damaged")
    assert not compare_runs.differences(folder, whole)

  return case


def damaged_seed(root, data, whole):
  """One of two seeds that are trained at once has a damaged checkpoint."""
  del whole
  form = run_process.Form(flags=("--seeds=0-1",), seeds=2)
  run = run_process.Run(root / "run", data, form)
  untouched = run._replace(folder=root / "untouched")
  (process,) = untouched.start()
  expect(process, process.end(), 0)
  shutil.copytree(untouched.folder, run.folder)
  newest, before = compare_runs.steps_of(run.folders()[1])[:2]
  _flip(_largest(run.folders()[1]))
  (process,) = run.start()
  expect(process, process.end(), 0, f"resuming at step {before}")
  _expect_warning(
    process, f"seed 1: the checkpoint of step {newest} is damaged"
  )
  for pair in zip(run.folders(), untouched.folders(), strict=True):
    assert not compare_runs.differences(*pair), pair


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 3] ^= 4
  path.write_bytes(content)


def full_disk(root, data, whole):
  del whole
  for size in ("150k", "400k", "900k"):
    with mounted(root / size, size) as folder:
      code, process = run_process.finish(folder / "run", data)
      expect(process, code, 2, "free")


def disk_that_others_fill(root, data, whole):
  with mounted(root / "disk", "30m") as disk:
    folder = disk / "run"
    process = run_process.Process(folder, data)
    process.wait_for("step 3/")
    with contextlib.suppress(OSError), (disk / "other").open("wb") as other:
      while True:
        other.write(bytes(4096))
    expect(process, process.end(), 2)
    assert compare_runs.steps_of(folder)
    (disk / "other").unlink()
    ends_as(folder, data, whole)


def files_that_may_not_grow(root, data, whole):
  folder = root / "run"

  prefix = ("prlimit", "--fsize=9000")
  try:
    code, process = run_process.finish(folder, data, prefix=prefix)
  except FileNotFoundError as error:
    raise NotPossible("there is no prlimit") from error
  expect(process, code, 2, "File too large")
  ends_as(folder, data, whole)


def read_only(root, data, whole):
  with mounted(root / "disk", "30m") as disk:
    folder = disk / "run"
    process = run_process.Process(folder, data)
    process.wait_for("step 3/")
    process.send(signal.SIGSTOP)
    # A file that is being written keeps a disk from becoming read-only, so that
    # a process which has just begun to save is waited for.
    remount = ["mount", "-o", "remount,ro,force", str(disk)]
    made = subprocess.run(remount, capture_output=True, check=False)
    if made.returncode:  # The files are open: make them read-only beneath.
      process.send(signal.SIGKILL)
      process.end()
      subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
      code, process = run_process.finish(folder, data)
    else:
      process.send(signal.SIGCONT)
      code = process.end()
    expect(process, code, 2, "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    ends_as(folder, data, whole)


def vanished(root, data, whole):
  del whole
  folder = root / "run"
  process = run_process.Process(folder, data)
  process.wait_for("step 3/")
  shutil.rmtree(folder, ignore_errors=True)
  shutil.rmtree(folder, ignore_errors=True)
  expect(process, process.end(), 2)
  assert not (folder / run_folder.RESULT).exists()


def _patched(root, text: str) -> dict[str, str]:
  folder = root / "patch"
  folder.mkdir()
  (folder / "sitecustomize.py").write_text(textwrap.dedent(text))
  return {"PYTHONPATH": f"{folder}:{run_process.ROOT}"}


def no_locks(root, data, whole):
  environment = _patched(root, _NO_LOCKS)
  ends_as(root / "run", data, whole, environment=environment)
  # Checkpoints need the locks of compiled code.
  source, library = root / "locks.c", root / "locks.so"
  source.write_text(textwrap.dedent(_NO_LOCKS_C))
  command = ["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"]
  try:
    subprocess.run(command, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError) as error:
    raise NotPossible(f"no compiler: {error}") from error
  environment["LD_PRELOAD"] = str(library)
  code, process = run_process.finish(
    root / "new", data, environment=environment
  )
  expect(process, code, 2, "No locks available")
  ends_as(root / "new", data, whole)


def jumping_clock(root, data, whole):
  environment = _patched(root, _JUMPING_CLOCK)
  folder = root / "run"
  process = run_process.Process(folder, data, environment=environment)
  process.wait_for("step 5/")
  process.send(signal.SIGKILL)
  process.end()
  ends_as(folder, data, whole, environment=environment)


def not_a_number(root, data, whole):
  del whole
  values = {"experts.learning_rate": 1e38}
  code, process = run_process.finish(root / "run", data, values)
  expect(process, code, 1, " is ", "expert")
  assert compare_runs.steps_of(root / "run"), "the last good state is gone"


def pictures(folder: pathlib.Path, seed: int) -> None:
  """Makes random pictures, which are data of a user's own."""
  folder.mkdir(parents=True)
  draw = np.random.default_rng(seed)
  for number in range(40):
    image_HWC = draw.integers(0, 255, (32, 32, 3), np.uint8)
    PIL.Image.fromarray(image_HWC).save(folder / f"{number:02}.png")


def changed_data(root, data, whole):
  del whole
  pictures(root / "own", 0)
  values = {"data.name": f"folder:{root / 'own'}", "train.steps": 2}
  code, process = run_process.finish(root / "run", data, values)
  expect(process, code, 0)
  pictures(root / "other", 1)
  shutil.copy(root / "other" / "00.png", root / "own" / "07.png")
  code, process = run_process.finish(root / "run", data, values)
  expect(process, code, 2, "saw other data", "changed: canonical/07.png")


def two_processes(root, data, whole):
  folder = root / "run"
  first = run_process.Process(folder, data)
  first.wait_for("compiling the step")
  code, second = run_process.finish(folder, data)
  expect(second, code, 2, "Another process uses")
  expect(first, first.end(), 0)
  assert not compare_runs.differences(folder, whole)


def other_config(root, data, whole):
  folder = root / "run"
  shutil.copytree(whole, folder)
  code, process = run_process.finish(folder, data, {"seed": 1})
  expect(process, code, 2, "seed was 0, is 1")
  content = json.loads((folder / run_folder.CONFIG).read_text())
  content["format"] += 1
  (folder / run_folder.CONFIG).write_text(json.dumps(content))
  code, process = run_process.finish(folder, data)
  expect(process, code, 2, f"must have format {content['format'] - 1}; it has")


CASES = {
  "missing file": damaged(lambda path: path.unlink()),
  "truncated file": damaged(lambda path: path.write_bytes(b"1234")),
  "flipped bit": damaged(_flip),
  "damaged seed": damaged_seed,
  "full disk": full_disk,
  "disk that others fill": disk_that_others_fill,
  "limit of a file's size": files_that_may_not_grow,
  "read-only workdir": read_only,
  "vanished workdir": vanished,
  "no locks": no_locks,
  "jumping clock": jumping_clock,
  "not a number": not_a_number,
  "changed data": changed_data,
  "two processes": two_processes,
  "other config or format": other_config,
}


def run_all(root, data, whole, counts: faults.Counts, only: str = "") -> None:
  """Runs all cases, or those whose names are given.

  Args:
    root: folder for all of their files.
    data: folder of prepared data.
    whole: folder of a run that nobody touched.
    counts: is added to.
    only: names with commas between them; "" is all.
  """
  chosen = only.split(",") if only else CASES
  for number, name in enumerate(chosen):
    folder = root / f"case_{number}"
    folder.mkdir()
    counts.done[name] += 1
    try:
      CASES[name](folder, data, whole)
    except NotPossible as error:
      counts.done[name] -= 1
      counts.notes.append(f"{name}: left out, {error}")
    except TimeoutError as error:
      counts.hangs[name] += 1
      counts.notes.append(f"{name}: hangs: {error}")
    except AssertionError as error:
      counts.problem(name, f"{error!r:.20000}")
