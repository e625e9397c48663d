"""Kills, stops and disturbs tiny runs, and counts what is lost.

  python -m tests.faults --kills=100 --stops=20

Runs are killed by SIGKILL at random moments of their start, of training, of
saving and of resuming, and stopped by SIGTERM and SIGINT at such moments. Every
run is then resumed to its end, and must end with the bits of a run that nobody
touched. After that come the faults of `tests.fault_cases`. The program ends
with a table, and with exit code 1 if anything was lost, differs or hangs.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp

from icm_jax.training import checkpoint, checksums, run_folder
from tests import run_process

# What a process has said when a moment begins, and the seconds within which it
# is killed.
MOMENTS = {
  "start": ("", 5.0),
  "training": ("step 1/", 0.6),
  "saving": ("", 0.03),
  "resuming": ("", 4.0),
}


def steps_of(folder: pathlib.Path) -> list[int]:
  """Returns the steps of checkpoints that are whole, the newest first."""
  steps = []
  for path in (folder / checkpoint.FOLDER).glob("*"):
    with contextlib.suppress(ValueError, FileNotFoundError):
      for item in ("arrays", "progress"):
        if not (path / item / checksums.FILE).exists():
          raise FileNotFoundError
        checksums.verify(path / item)
      steps.append(int(path.name))
  return sorted(steps, reverse=True)


def arrays_of(folder: pathlib.Path) -> list[bytes]:
  """Returns the arrays of a finished run's newest checkpoint."""
  newest = folder / checkpoint.FOLDER / f"{steps_of(folder)[0]}" / "arrays"
  with contextlib.closing(ocp.StandardCheckpointer()) as checkpointer:
    tree = checkpointer.restore(newest.absolute())
  arrays = jax.tree.leaves(tree)
  keys = jax.dtypes.prng_key
  return [
    np.asarray(
      jax.random.key_data(a) if jax.dtypes.issubdtype(a.dtype, keys) else a
    ).tobytes()
    for a in arrays
  ]


def rows_of(folder: pathlib.Path) -> list[dict]:
  """Returns the rows of metrics without their times.

  Raises:
    ValueError: a line is torn.
  """
  rows = []
  for line in (folder / run_folder.METRICS).read_text().splitlines():
    row = json.loads(line)
    del row["wall_s"]
    rows.append(row)
  return rows


def differences(folder: pathlib.Path, whole: pathlib.Path) -> list[str]:
  """Returns in which files a finished run differs from an untouched one."""
  results = [run_folder.read_result(f) or {} for f in (folder, whole)]
  found = {
    "state": arrays_of(folder) != arrays_of(whole),
    "metrics": rows_of(folder) != rows_of(whole),
    "result": results[0].get("wins") != results[1].get("wins"),
    "leftovers": bool(
      [p for p in folder.glob(".*")]
      + [p for p in (folder / checkpoint.FOLDER).glob("*tmp*")]
    ),
  }
  return [name for name, differs in found.items() if differs]


@dataclasses.dataclass
class Counts:
  """What happened, by kind; every count but `done` must be 0.

  Attributes:
    done: how often something was done.
    lost: steps of checkpoints that were there and are gone.
    wrong: what a run did that it should not have done.
    hangs: processes that did not end.
    told: seconds from a signal to the line that acknowledges it.
    notes: what was lost or wrong, in words.
  """

  done: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  lost: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  wrong: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  hangs: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  told: list[float] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  def of(self, name: str) -> int:
    """How often a signal came, at any moment."""
    return sum(n for kind, n in self.done.items() if kind.startswith(name))

  def problem(self, kind: str, text: str) -> None:
    self.wrong[kind] += 1
    self.notes.append(f"{kind}: {text}")


def check_after(folder, before: int, kind: str, counts: Counts) -> int:
  """Looks at a folder after its process died; returns its newest step."""
  newest = max(steps_of(folder), default=-1)
  if newest < before:
    counts.lost[kind] += before - newest
    counts.notes.append(f"{kind}: step {before} is gone, {newest} is left")
  path = folder / run_folder.METRICS
  if path.exists():
    try:
      steps = [row["step"] for row in rows_of(folder) if "loss/expert" in row]
    except ValueError as error:
      counts.problem(kind, f"torn line of metrics: {error}")
    else:
      if len(steps) != len(set(steps)):
        counts.problem(kind, f"a step twice in the metrics: {steps}")
  return newest


def wait_for_moment(
  process: run_process.Process, folder, moment: str, rng
) -> bool:
  """Waits for a random instant of a moment; False if the process ends."""
  text, seconds = MOMENTS[moment]
  if moment == "saving":
    folder = folder / checkpoint.FOLDER
    left = set(folder.glob("*tmp*"))  # By a process that was killed before.
    begun = process.wait_until(lambda: set(folder.glob("*tmp*")) - left)
  else:
    begun = not text or process.wait_for(text)
  instant = time.monotonic() + rng.random() * seconds
  return begun and process.wait_until(lambda: time.monotonic() >= instant)


def end_at(
  folder: pathlib.Path,
  data: pathlib.Path,
  moment: str,
  number: int,
  newest: int,
  rng: random.Random,
  counts: Counts,
) -> int:
  """Starts or resumes a run, and ends it by a signal.

  Args:
    folder: folder of the run.
    data: folder of prepared data.
    moment: a name of `MOMENTS`.
    number: the signal.
    newest: step of the newest checkpoint before; -1 without one.
    rng: draws the instant.
    counts: is added to.

  Returns:
    The step of the newest checkpoint afterwards.
  """
  kind = f"{signal.Signals(number).name} at {moment}"
  process = run_process.Process(folder, data)
  if not wait_for_moment(process, folder, moment, rng):
    process.end()
    counts.done["too late"] += 1
    return newest
  process.send(number)
  sent = time.monotonic()
  if number != signal.SIGKILL and process.wait_until(
    lambda: any("stop" in line for line in process.lines)
  ):
    counts.told.append(time.monotonic() - sent)
  try:
    code = process.end()
  except TimeoutError as error:
    counts.hangs[kind] += 1
    counts.notes.append(f"{kind}: hangs: {error}")
    return newest
  counts.done[kind] += 1
  newest = check_after(folder, newest, kind, counts)
  if number != signal.SIGKILL:
    check_stop(process, code, number, newest, kind, counts)
  return newest


def kill_and_resume(
  folder: pathlib.Path,
  data: pathlib.Path,
  moments: Sequence[tuple[str, int]],
  whole: pathlib.Path,
  rng: random.Random,
  counts: Counts,
) -> None:
  """Ends a run by signals at several moments, and then lets it end.

  Args:
    folder: folder of the run.
    data: folder of prepared data.
    moments: moments, and the signals that come at them.
    whole: folder of a run that nobody touched.
    rng: draws instants.
    counts: is added to.
  """
  newest = -1
  for moment, number in moments:
    newest = end_at(folder, data, moment, number, newest, rng, counts)
  code, process = run_process.finish(folder, data)
  counts.done["resumed to the end"] += 1
  if code:
    counts.problem("resumed to the end", f"exit code {code}: {process.lines}")
  elif found := differences(folder, whole):
    counts.problem("resumed to the end", f"differs in {', '.join(found)}")


def check_stop(process, code, number, newest, kind, counts) -> None:
  """Checks how a process took a signal that may be handled."""
  if code == 0 and "open " in process.lines[-1]:
    return  # It had nothing left to do.
  if code != 128 + number:
    counts.problem(kind, f"exit code {code}: {process.lines}")
  errors = process.errors()
  if len(errors) != 1 or not errors[0].startswith("error: "):
    counts.problem(kind, f"not one line: {errors[:8]}")
  match = re.search(r"after step (\d+)", " ".join(errors))
  if match and int(match[1]) != newest:
    counts.problem(kind, f"{errors[0]}, but step {newest} is saved")


def plan(kills: int, stops: int, rng: random.Random) -> Iterator[list]:
  """Yields the moments and signals of each run."""
  signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * stops
  signals += [signal.SIGINT] * (stops // 4)
  rng.shuffle(signals)
  while signals:
    some, signals = signals[:5], signals[5:]
    names = rng.choices(["start", "training", "saving"], [1, 2, 2], k=len(some))
    # The second process resumes what the first one has saved.
    names[1:2] = ["resuming"] if len(names) > 2 else names[1:2]
    names[0] = rng.choice(["start", "training", "saving"])
    yield list(zip(names, some, strict=True))


def table(counts: Counts) -> str:
  """Returns a table of all counts."""
  kinds = sorted({*counts.done, *counts.wrong, *counts.lost, *counts.hangs})
  width = max(map(len, kinds), default=0)
  head = f"{'':<{width}}  times  steps lost  wrong  hangs"
  return "\n".join(
    [
      head,
      *(
        f"{kind:<{width}}  {counts.done[kind]:>5}  {counts.lost[kind]:>10}  "
        f"{counts.wrong[kind]:>5}  {counts.hangs[kind]:>5}"
        for kind in kinds
      ),
    ]
  )


def main() -> int:
  """Runs everything; returns the exit code."""
  from tests import fault_cases

  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument("--stops", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--cases", default="", help="Only these faults.")
  options = parser.parse_args()
  rng, counts = random.Random(options.seed), Counts()
  with tempfile.TemporaryDirectory() as temporary:
    root = pathlib.Path(temporary)
    data, whole = root / "data", root / "whole"
    code, process = run_process.finish(whole, data)
    if code:
      raise RuntimeError(process.lines)
    number = 0
    while True:
      # A moment can come too late; it is then planned again.
      kills = options.kills - counts.of("SIGKILL")
      stops = options.stops - counts.of("SIGTERM")
      if kills <= 0 and stops <= 0:
        break
      for moments in plan(max(kills, 0), max(stops, 0), rng):
        kill_and_resume(root / f"{number}", data, moments, whole, rng, counts)
        shutil.rmtree(root / f"{number}", ignore_errors=True)
        number += 1
        print(
          f"run {number}: {counts.of('SIGKILL')} kills, "
          f"{counts.of('SIGTERM')} stops",
          flush=True,
        )
    fault_cases.run_all(root, data, whole, counts, options.cases)
  print(*counts.notes, sep="\n")
  print(table(counts))
  if counts.told:
    print(f"signals are acknowledged after {max(counts.told):.2f} s at most")
  bad = counts.wrong.total() + counts.lost.total() + counts.hangs.total()
  return int(bool(bad))


if __name__ == "__main__":
  sys.exit(main())
