"""Measures everything that an accelerator should tell, in less than 8 minutes.

  make bench-accelerator
  python -m benchmarks.accelerator --out=accelerator.jsonl

Rows come in the order of their importance, until `--budget_s` seconds have
passed; the rows that are left out are named at the end. Every row is one JSON
object per line, written as soon as it is measured; a table of all rows is last.
Nothing needs the network. On a CPU, or with `--smallest`, all rows have the
smallest sizes, which shows that they run, and nothing else.

Kinds of rows (`kind`):

  device    name; rates of products of matrices and of copies
  torch     milliseconds of PyTorch's update (`torch_reference.py`), if the
            Python of `--torch` has it: float32 and bfloat16 by autocast, with
            and without `torch.compile`, in the faster memory format
  step      an update, by experts, batch, image, dtype, form of the expert axis
            (`expert_axis.FORMS`), updates of a dispatch, and seeds at once; see
            `cases.measure`. `to_torch` is its time divided by PyTorch's least
            time in this size and dtype
  parts     milliseconds of the parts of an update (`parts.py`)
  kernels   the longest kernels of an update, from a profile
  result    the config mnist.py until every mechanism has its own expert
  pipeline  images per second of the input pipeline, and the share of the time
            that the device waits for them
  failed    what a row said instead

A form is measured in two sizes before the best one is used in all others. Forms
are compiled in parallel; nothing else runs while something is timed.
"""

import concurrent.futures
import contextlib
import functools
import gzip
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from absl import app, flags, logging

from benchmarks import accelerator_runs, cases, torch_process
from benchmarks.cases import Case
from benchmarks.rows import Rows, finish
from icm_jax.competition import expert_axis

_STARTED = time.perf_counter()
_BUDGET_S = flags.DEFINE_float("budget_s", 450.0, "Seconds for everything.", 30)
_OUT = flags.DEFINE_string("out", "", "A file for the JSON lines.")
_TORCH = flags.DEFINE_string(
  "torch", sys.executable, "A Python that may have PyTorch; '' is none."
)
_TORCH_S = flags.DEFINE_float("torch_s", 110.0, "Seconds for PyTorch.", 0)
_JOBS = flags.DEFINE_integer("jobs", 8, "Programs compiled at a time.", 1)
_PROGRAMS = flags.DEFINE_string(
  "programs", "", "A file for the text of compiled updates, gzipped."
)
_FORMS = flags.DEFINE_list(
  "forms", list(expert_axis.FORMS), "Forms to compare."
)
_SMALLEST = flags.DEFINE_bool("smallest", False, "Smallest sizes only.")

BEST = "best"  # Stands for the form that was best in a similar size.
# Seconds of a program before any was measured, compiled in parallel.
FIRST_GUESS_S = 5.0
SMALL, MIDDLE, LARGE = (32, 32, 1), (64, 64, 3), (128, 128, 3)


class Task(NamedTuple):
  """A group of rows that is measured, or left out, as a whole.

  Attributes:
    name: name for a reader.
    cases: updates that are compiled in parallel, and then timed; or
    run: another measurement, which returns a row.
    guess_s: seconds that `run` may take.
  """

  name: str
  cases: tuple[Case, ...] = ()
  run: Callable[[], dict[str, Any]] | None = None
  guess_s: float = 0.0


def remaining_s() -> float:
  return _BUDGET_S.value - (time.perf_counter() - _STARTED)


# ------------------------------------------------------------------------------
# PyTorch.


def torch_cases(smallest: bool) -> Iterator[tuple[dict[str, Any], int]]:
  """Yields requests to `torch_reference.py`, the most important ones first."""
  sizes = [(10, 1024, SMALL), (10, 32, SMALL), (10, 128, SMALL)]
  sizes += [(32, 32, SMALL), (32, 1024, SMALL)]
  sizes += [(10, 32, MIDDLE), (10, 1024, MIDDLE)]
  sizes += [(10, 32, LARGE), (10, 128, LARGE)]
  compiled = sizes[:2]
  if smallest:
    sizes, compiled = [(2, 4, (8, 8, 1))], []
  for compile_, chosen in ((False, sizes), (True, compiled)):
    for dtype in ("bfloat16", "float32"):
      for experts, batch, image in chosen:
        yield {
          "experts": experts,
          "batch": batch,
          "image": image,
          "dtype": dtype,
          "compile": compile_,
        }


def measure_torch(rows: Rows, device: str, smallest: bool) -> None:
  """Measures PyTorch in a process of its own, which ends at its deadline."""
  deadline = time.perf_counter() + _TORCH_S.value
  with contextlib.ExitStack() as stack:
    reference = None
    for request in torch_cases(smallest):
      left_s = deadline - time.perf_counter()
      if left_s < 1:
        rows.add("left out", name="torch", **request)
        continue
      try:
        if reference is None:
          reference = torch_process.TorchProcess(
            _TORCH.value, "torch_reference.py"
          )
          stack.enter_context(reference)
        with reference.limit(left_s):
          made = reference.ask(do="make", device=device, **request)
          first_s = reference.ask(do="step")["seconds"]
          count = min(max(round(0.1 / first_s), 1), 100)
          answers = [reference.ask(do="step", count=count) for _ in range(5)]
        rows.add(
          "torch",
          **request,
          ms=1e3 * statistics.median(answer["seconds"] for answer in answers),
          channels_last=made["channels_last"],
          peak_gib=answers[-1]["peak_gib"],
          version=made["version"],
        )
      except (OSError, ValueError) as error:  # The process has ended.
        rows.add("failed", name="torch", **request, error=repr(error)[:200])
        reference = None
        if not rows.of_kind("torch"):
          break  # There is no PyTorch.


# ------------------------------------------------------------------------------
# Updates.


def best_form(rows: Rows, case: Case) -> str:
  """Returns the form that was best in the most similar size.

  Forms with too many convolutions for the size, which would take minutes to
  compile, are not considered.
  """
  work = case.batch * case.image[0] * case.image[1]
  similar = [
    row
    for row in rows.of_kind("step")
    if row["dtype"] == case.dtype
    and row["updates"] == row["seeds"] == 1
    and (row["form"] != "unroll" or (case.experts, case.batch) == (10, 32))
    and (row["form"] != "unroll_blocks" or case.experts <= 10)
  ]
  if not similar:
    return "auto"

  def distance(row):
    size = row["batch"] * row["image"][0] * row["image"][1]
    return abs(math.log(size / work)), row["ms"]

  return min(similar, key=distance)["form"]


def measure_cases(
  rows: Rows, task: Task, rates: dict[str, float], lowered: dict[Case, Any]
) -> float:
  """Compiles cases in parallel, and times them one after another.

  Args:
    rows: receives the rows.
    task: a task with cases.
    rates: result of `cases.measure_rates`.
    lowered: cases that were lowered in advance.

  Returns:
    Seconds per case.
  """
  start = time.perf_counter()

  def compile_(case):
    begin = time.perf_counter()
    program = lowered.pop(case, None) or cases.lower(case)
    return program.compile(), time.perf_counter() - begin

  with concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool:
    waiting = {case: pool.submit(compile_, case) for case in task.cases}
  for case, future in waiting.items():
    try:
      program, compile_s = future.result()
      measured = cases.measure(case, program, rates)
    except Exception as error:  # noqa: BLE001, one row must not end all.
      rows.add("failed", **case._asdict(), error=repr(error)[:300])
      continue
    theirs = [
      row["ms"]
      for row in rows.of_kind("torch")
      if all(row[name] == getattr(case, name) for name in Case._fields[:4])
    ]
    if _PROGRAMS.value:
      with gzip.open(_PROGRAMS.value, "at") as file:
        file.write(f"// {case}\n{program.as_text()}\n")
    rows.add(
      "step",
      **case._asdict(),
      **measured,
      to_torch=measured["ms"] / case.seeds / min(theirs) if theirs else None,
      compile_s=compile_s,
    )
    del program
  return (time.perf_counter() - start) / len(task.cases)


def plan(rows: Rows, forms: Sequence[str], smallest: bool) -> list[Task]:
  """Returns all tasks, the most important ones first."""
  both = ("bfloat16", "float32")
  runs = functools.partial(accelerator_runs.result, smallest=smallest)
  pipeline = functools.partial(accelerator_runs.pipeline, smallest=smallest)

  def best(name, *sizes, dtypes=both, **more):
    each = tuple(
      Case(*size, dtype, BEST, **more) for size in sizes for dtype in dtypes
    )
    return Task(name, each)

  def inside(measure, *size):
    """Returns a task that looks into one update."""
    case = Case(*size, BEST)
    return Task(
      f"{measure.__name__} {size}",
      run=lambda: measure(case._replace(form=best_form(rows, case))),
      guess_s=20,
    )

  parts = functools.partial(inside, accelerator_runs.parts)
  kernels = functools.partial(inside, accelerator_runs.kernels)

  def best_result():
    return runs(best_form(rows, Case(10, 32, SMALL, "float32", BEST)))

  if smallest:
    tiny = (2, 4, (8, 8, 1))
    return [
      Task("forms", tuple(Case(*tiny, "float32", form) for form in forms)),
      best("bfloat16", tiny, dtypes=both[:1]),
      best("updates", tiny, dtypes=both[1:], updates=3),
      best("seeds", tiny, dtypes=both[1:], seeds=2),
      parts(*tiny, "float32"),
      kernels(*tiny, "float32"),
      Task("result", run=lambda: runs("auto")),
      Task("pipeline", run=lambda: pipeline(4)),
    ]
  # In a large batch, "unroll" has hundreds of convolutions, and those of "vmap"
  # have as many groups as there are images.
  large = [form for form in forms if form not in ("unroll", "vmap")]
  one_by_one = Task(
    "vmap 1024",
    tuple(
      Case(10, 1024, SMALL, dtype, "vmap") for dtype in both if "vmap" in forms
    ),
  )
  compared = [
    Task(
      f"forms {batch} {dtype}",
      tuple(Case(10, batch, SMALL, dtype, form) for form in chosen),
    )
    for dtype in both
    for batch, chosen in ((1024, large), (32, forms))
  ]
  return [
    *compared,
    best("sizes", (10, 128, SMALL), (32, 1024, SMALL), (32, 32, SMALL)),
    best("updates", (10, 32, SMALL), (10, 128, SMALL), updates=50),
    best("64x64x3", (10, 1024, MIDDLE), (10, 32, MIDDLE)),
    Task("result", run=lambda: runs("auto"), guess_s=60),
    Task("pipeline 32", run=lambda: pipeline(32), guess_s=25),
    best("seeds", (10, 32, SMALL), seeds=16),
    parts(10, 1024, SMALL, "bfloat16"),
    kernels(10, 1024, SMALL, "bfloat16"),
    best("128x128x3", (10, 32, LARGE), (10, 128, LARGE), dtypes=both[:1]),
    Task("pipeline 1024", run=lambda: pipeline(1024), guess_s=25),
    parts(10, 32, SMALL, "bfloat16"),
    kernels(10, 32, SMALL, "bfloat16"),
    Task("result, best form", run=best_result, guess_s=60),
    one_by_one,
    best("128x128x3 float32", (10, 32, LARGE), dtypes=both[1:]),
    best("more", (10, 256, SMALL), (10, 512, SMALL), (10, 64, SMALL)),
    best("more 64x64x3", (32, 32, MIDDLE), (10, 128, MIDDLE)),
    best("more updates", (10, 1024, SMALL), dtypes=both[:1], updates=50),
  ]


def run_plan(
  rows: Rows,
  tasks: list[Task],
  rates: dict[str, float],
  lowered: dict[Case, Any],
  left: list[str],
) -> None:
  """Runs tasks as long as there is time; `left` names the others."""
  case_s = FIRST_GUESS_S
  left += [task.name for task in tasks]
  for task in tasks:
    left.remove(task.name)
    if task.run and remaining_s() > task.guess_s:
      try:
        rows.add(**task.run())
      except Exception as error:  # noqa: BLE001, one row must not end all.
        rows.add("failed", name=task.name, error=repr(error)[:300])
      continue
    room = int(remaining_s() / case_s)
    chosen = tuple(
      case._replace(form=best_form(rows, case)) if case.form == BEST else case
      for case in task.cases[:room]
    )
    if chosen:
      seconds = measure_cases(rows, task._replace(cases=chosen), rates, lowered)
      case_s = (case_s + seconds) / 2
    if task.run or len(chosen) < len(task.cases):
      rows.add("left out", name=task.name, cases=task.cases[len(chosen) :])


def main(_) -> None:
  logging.set_verbosity(logging.WARNING)  # Orbax logs every step of a save.
  # PyTorch needs memory too, and programs come in many sizes.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  rows, left = Rows(_OUT.value, _STARTED), []

  def stop():
    """Ends everything, also in the middle of a compilation."""
    finish(rows, ["the rows in work", *left])
    os._exit(0)

  watchdog = threading.Timer(_BUDGET_S.value, stop)
  watchdog.daemon = True
  watchdog.start()
  device = jax.devices()[0]
  smallest = _SMALLEST.value or device.platform == "cpu"
  tasks, lowered = plan(rows, _FORMS.value, smallest), {}
  if _TORCH.value:
    # While PyTorch is timed, this process traces and does not use the device.
    torch_device = "cpu" if device.platform == "cpu" else "cuda"
    theirs = threading.Thread(
      target=measure_torch, args=(rows, torch_device, smallest)
    )
    theirs.start()
    for task in tasks[:4]:
      for case in task.cases:
        if theirs.is_alive() and case.form != BEST:
          lowered[case] = cases.lower(case)
    theirs.join()
  rates = cases.measure_rates(512 if smallest else 8192)
  rows.add(
    "device",
    name=device.device_kind,
    platform=device.platform,
    jax=jax.__version__,
    **rates,
  )
  run_plan(rows, tasks, rates, lowered, left)
  watchdog.cancel()
  memory = device.memory_stats() or {}
  if "peak_bytes_in_use" in memory:
    rows.add("memory", peak_gib=memory["peak_bytes_in_use"] / 2**30)
  finish(rows, left)


if __name__ == "__main__":
  app.run(main)
