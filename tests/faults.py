"""Kills, stops and disturbs tiny runs, and counts what is lost.

  python -m tests.faults --kills=100 --stops=20

Runs are killed by SIGKILL at random moments of their start, of training, of
saving and of resuming, and stopped by SIGTERM and SIGINT at such moments. Every
run is then resumed to its end, and must end with the bits of a run that nobody
touched. Most runs have one device; a tenth of the kills go to each other form
of `run_process.FORMS`: several devices, seeds or processes. After that come the
faults of `tests.fault_cases`. The program ends with a table, and with exit code
1 if anything was lost, differs or hangs.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from icm_jax.training import checkpoint, run_folder
from tests import compare_runs, run_process

# What a process has said when a moment begins, and the seconds within which it
# is killed.
MOMENTS = {
  "start": ("", 5.0),
  "training": ("step 1/", 0.6),
  "saving": ("", 0.03),
  "resuming": ("", 4.0),
}
# Several processes do not know of each other before they have met.
_HAVE_MET = " devices: "
# Seconds within which the other processes must end.
_TOGETHER_S = 60.0


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
    """How often a signal came to runs of any or of one form, at any moment."""
    return sum(n for kind, n in self.done.items() if f"{name} at" in kind)

  def problem(self, kind: str, text: str) -> None:
    self.wrong[kind] += 1
    self.notes.append(f"{kind}: {text}")


def check_after(run, before: int, kind: str, counts: Counts) -> int:
  """Looks at a run after its process died; returns its newest step."""
  newest = compare_runs.newest_of(run)
  if newest < before:
    counts.lost[kind] += before - newest
    counts.notes.append(f"{kind}: step {before} is gone, {newest} is left")
  for folder in run.folders():
    if not (folder / run_folder.METRICS).exists():
      continue
    try:
      steps = [
        row["step"]
        for row in compare_runs.rows_of(folder)
        if "loss/expert" in row
      ]
    except ValueError as error:
      counts.problem(kind, f"torn line of metrics: {error}")
    else:
      if len(steps) != len(set(steps)):
        counts.problem(kind, f"a step twice in the metrics: {steps}")
  return newest


def wait_for_moment(
  process: run_process.Process, run: run_process.Run, moment: str, rng
) -> bool:
  """Waits for a random instant of a moment; False if the process ends."""
  text, seconds = MOMENTS[moment]
  if moment == "saving":
    # The last of several seeds is saved when all others are.
    folder = run.folders()[-1] / checkpoint.FOLDER
    left = set(folder.glob("*tmp*"))  # By a process that was killed before.
    begun = process.wait_until(lambda: set(folder.glob("*tmp*")) - left)
  else:
    if run.form.processes > 1:
      text = text or _HAVE_MET
    begun = not text or process.wait_for(text)
  instant = time.monotonic() + rng.random() * seconds
  return begun and process.wait_until(lambda: time.monotonic() >= instant)


def end_at(
  run: run_process.Run,
  moment: str,
  number: int,
  newest: int,
  rng: random.Random,
  counts: Counts,
) -> int:
  """Starts or resumes a run, and ends one of its processes by a signal.

  Args:
    run: the run.
    moment: a name of `MOMENTS`.
    number: the signal.
    newest: step of the newest checkpoint before; -1 without one.
    rng: draws the process and the instant.
    counts: is added to.

  Returns:
    The step of the newest checkpoint afterwards.
  """
  kind = f"{run.form.name}: {signal.Signals(number).name} at {moment}"
  processes = run.start()
  first, hit = processes[0], rng.randrange(len(processes))
  process = processes[hit]
  came = wait_for_moment(first, run, moment, rng)
  if came:
    process.send(number)
    sent = time.monotonic()
    if number != signal.SIGKILL and process.wait_until(
      lambda: any("stop" in line for line in process.lines)
    ):
      counts.told.append(time.monotonic() - sent)
  try:
    code = process.end()
    codes = [p.end(within_s=_TOGETHER_S) for p in processes]
  except TimeoutError as error:
    for other in processes:
      other.kill()
    counts.hangs[kind] += 1
    counts.notes.append(f"{kind}: hangs: {error}")
    return newest
  if not came:
    counts.done["too late"] += 1
    if any(codes):
      counts.problem(kind, f"exit codes {codes}: {first.lines}")
    return newest
  counts.done[kind] += 1
  newest = check_after(run, newest, kind, counts)
  if number != signal.SIGKILL:
    check_stop(process, code, number, newest, kind, counts)
  for other in processes:
    if other is not process:
      check_other(other, process, hit, kind, counts)
  return newest


def kill_and_resume(
  run: run_process.Run,
  moments: Sequence[tuple[str, int]],
  whole: run_process.Run,
  rng: random.Random,
  counts: Counts,
) -> None:
  """Ends a run by signals at several moments, and then lets it end.

  Args:
    run: the run.
    moments: moments, and the signals that come at them.
    whole: a run that nobody touched.
    rng: draws instants.
    counts: is added to.
  """
  newest = -1
  for moment, number in moments:
    newest = end_at(run, moment, number, newest, rng, counts)
  kind = f"{run.form.name}: resumed to the end"
  counts.done[kind] += 1
  last = run._replace(form=run.form.last or run.form)
  try:
    ended = [(process.end(), process.lines) for process in last.start()]
  except TimeoutError as error:
    counts.hangs[kind] += 1
    counts.notes.append(f"{kind}: hangs: {error}")
    return
  for code, lines in ended:
    if code:
      counts.problem(kind, f"exit code {code}: {lines}")
      return
  for folder, untouched in zip(run.folders(), whole.folders(), strict=True):
    found = compare_runs.differences(
      folder, untouched, tolerance=run.form.tolerance
    )
    if found:
      counts.problem(kind, f"{folder.name} differs in {', '.join(found)}")


def check_stop(process, code, number, newest, kind, counts) -> None:
  """Checks how a process took a signal that may be handled."""
  if code == 0:
    return  # It had nothing left to do.
  if code != 128 + number:
    counts.problem(kind, f"exit code {code}: {process.lines}")
  errors = process.errors()
  if len(errors) != 1 or not errors[0].startswith("error: "):
    counts.problem(kind, f"not one line: {errors[:8]}")
  match = re.search(r"after step (\d+)", " ".join(errors))
  if match and int(match[1]) != newest:
    counts.problem(kind, f"{errors[0]}, but step {newest} is saved")


def check_other(other, process, hit: int, kind, counts) -> None:
  """Checks how a process took the end of another one of its run.

  Args:
    other: the process.
    process: the one that got a signal.
    hit: number of that one.
    kind: row of the table.
    counts: is added to.
  """

  def told(process) -> list[str]:
    """Returns its errors, without the log in which JAX tells the same."""
    begin = ("error: ", "Traceback")
    return [line for line in process.lines if line.startswith(begin)]

  code, errors = other.end(), told(other)
  if code == 0:  # The run was finished before.
    right = not errors
  elif any("Stopped after" in line for line in told(process)):
    right = (code, errors) == (process.end(), told(process))
  else:
    right = code == 1 and len(errors) == 1 and f"process {hit} on" in errors[0]
  if not right:
    counts.problem(kind, f"exit code {code}, process {hit}: {other.lines}")


def plan(kills: int, stops: int, rng: random.Random) -> Iterator[list]:
  """Yields the moments and signals of each run."""
  signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * stops
  signals += [signal.SIGINT] * -(-stops // 4)
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


def disturb(
  root: pathlib.Path,
  data: pathlib.Path,
  form: run_process.Form,
  kills: int,
  stops: int,
  rng: random.Random,
  counts: Counts,
) -> None:
  """Kills and stops runs of one form.

  Args:
    root: folder for all of their files.
    data: folder of prepared data.
    form: how they are started.
    kills: number of times that SIGKILL comes.
    stops: number of times that SIGTERM comes.
    rng: draws moments and instants.
    counts: is added to.
  """
  whole = run_process.Run(root / form.name / "whole", data, form)
  processes = whole.start()
  codes = [process.end() for process in processes]
  if any(codes):
    lines = [process.lines for process in processes]
    counts.problem(f"{form.name}: untouched", f"exit codes {codes}: {lines}")
    return
  number = 0
  while True:
    # A moment can come too late; it is then planned again.
    left = (
      max(kills - counts.of(f"{form.name}: SIGKILL"), 0),
      max(stops - counts.of(f"{form.name}: SIGTERM"), 0),
    )
    if not any(left):
      return
    for moments in plan(*left, rng):
      run = whole._replace(folder=root / form.name / f"{number}")
      kill_and_resume(run, moments, whole, rng, counts)
      shutil.rmtree(run.folder, ignore_errors=True)
      number += 1
      print(
        f"{form.name}, run {number}: {counts.of(f'{form.name}: SIGKILL')} "
        f"kills, {counts.of(f'{form.name}: SIGTERM')} stops",
        flush=True,
      )


def shares(
  forms: Sequence[run_process.Form], kills: int, stops: int
) -> Iterator[tuple[run_process.Form, int, int]]:
  """Yields the kills and stops of each form; the first one gets most."""
  others, few = len(forms) - 1, (kills // 10, 3 * stops // 20)
  yield forms[0], kills - others * few[0], stops - others * few[1]
  for form in forms[1:]:
    yield form, *few


def main() -> int:
  """Runs everything; returns the exit code."""
  from tests import fault_cases

  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument("--stops", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--form", default="", help="Only runs of this form, and no other faults."
  )
  parser.add_argument("--cases", default="", help="Only these faults.")
  options = parser.parse_args()
  rng, counts = random.Random(options.seed), Counts()
  forms = [f for f in run_process.FORMS if options.form in ("", f.name)]
  with tempfile.TemporaryDirectory() as temporary:
    root = pathlib.Path(temporary)
    data = root / "data"
    for form, kills, stops in shares(forms, options.kills, options.stops):
      # The untouched run of the first form is needed for all other faults.
      if kills or stops or form is forms[0]:
        disturb(root, data, form, kills, stops, rng, counts)
    if not options.form:
      whole = root / forms[0].name / "whole"
      fault_cases.run_all(root, data, whole, counts, options.cases)
  print(*counts.notes, sep="\n")
  print(table(counts))
  if counts.told:
    print(f"signals are acknowledged after {max(counts.told):.2f} s at most")
  bad = counts.wrong.total() + counts.lost.total() + counts.hangs.total()
  return int(bool(bad))


if __name__ == "__main__":
  sys.exit(main())
