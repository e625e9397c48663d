"""Measures everything that an accelerator should tell, in less than 8 minutes.

  make bench-accelerator
  python -m benchmarks.accelerator --out=runs/accelerator/rows.jsonl

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

Compiling takes most of the time: on a GPU, XLA times several algorithms of each
convolution. So a row is timed as soon as its program is compiled, and nothing
else runs meanwhile, as it would disturb both timings. A folder `compiled`
beside the file of `--out` keeps compiled programs and chosen algorithms, so
that a second call gets further; its `compile_s` are times of loading. XLA's
choice of algorithms is that of a run: with a lower `--xla_gpu_autotune_level`,
programs would be timed that no run uses.
"""

import contextlib
import functools
import gzip
import os
import pathlib
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

_STARTED = time.perf_counter()
_BUDGET_S = flags.DEFINE_float("budget_s", 450.0, "Seconds for everything.", 30)
_OUT = flags.DEFINE_string("out", "", "A file for the JSON lines.")
_TORCH = flags.DEFINE_string(
  "torch", sys.executable, "A Python that may have PyTorch; '' is none."
)
_TORCH_S = flags.DEFINE_float("torch_s", 110.0, "Seconds for PyTorch.", 0)
_PROGRAMS = flags.DEFINE_string(
  "programs", "", "A file for the text of compiled updates, gzipped."
)
_FORMS = flags.DEFINE_list(
  "forms", ["unroll_blocks", "vmap_masked"], "Forms to compare."
)
_SMALLEST = flags.DEFINE_bool("smallest", False, "Smallest sizes only.")

SMALL, MIDDLE, LARGE = (32, 32, 1), (64, 64, 3), (128, 128, 3)


class Task(NamedTuple):
  """A row that is measured, or left out.

  Attributes:
    name: name for a reader.
    run: the measurement, which returns the row.
  """

  name: str
  run: Callable[[], dict[str, Any]]


# ------------------------------------------------------------------------------
# PyTorch.


def torch_cases(smallest: bool) -> Iterator[tuple[dict[str, Any], int]]:
  """Yields requests to `torch_reference.py`, the most important ones first."""
  sizes = [(10, 32, SMALL), (10, 1024, SMALL), (10, 128, SMALL)]
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
# Our own rows.


def measure_case(
  rows: Rows, case: Case, rates: dict[str, float]
) -> dict[str, Any]:
  """Compiles an update and times it.

  Args:
    rows: rows so far, with PyTorch's.
    case: the update.
    rates: result of `cases.measure_rates`.

  Returns:
    The row.
  """
  start = time.perf_counter()
  program = cases.lower(case).compile()
  compile_s = time.perf_counter() - start
  measured = cases.measure(case, program, rates)
  if _PROGRAMS.value:
    with gzip.open(_PROGRAMS.value, "at") as file:
      file.write(f"// {case}\n{program.as_text()}\n")
  theirs = [
    row["ms"]
    for row in rows.of_kind("torch")
    if all(row[name] == getattr(case, name) for name in Case._fields[:4])
  ]
  return {
    "kind": "step",
    **case._asdict(),
    **measured,
    "to_torch": measured["ms"] / case.seeds / min(theirs) if theirs else None,
    "compile_s": compile_s,
  }


def plan(
  measure: Callable[[Case], dict[str, Any]],
  forms: Sequence[str],
  *,
  smallest: bool,
) -> Iterator[Task]:
  """Yields all tasks, the most important ones first.

  Args:
    measure: measures an update.
    forms: forms of the expert axis that are compared in two sizes, in bfloat16;
      all other rows are of "auto".
    smallest: whether all sizes are the smallest.
  """

  def updates(*sizes, dtype="bfloat16", form="auto", **more):
    for size in sizes:
      case = Case(*size, dtype, form, **more)
      yield Task(f"update {_name(case)}", functools.partial(measure, case))

  def inside(measure, *size):
    """Returns a task that looks into one update."""
    case = Case(*size, "bfloat16", "auto")
    name = f"{measure.__name__} {_name(case)}"
    return Task(name, functools.partial(measure, case))

  def run(measure, *args):
    name = " ".join(map(str, (measure.__name__, *args)))
    return Task(name, functools.partial(measure, *args, smallest=smallest))

  runs = accelerator_runs
  if smallest:
    tiny = (2, 4, (8, 8, 1))
    for form in forms:
      yield from updates(tiny, dtype="float32", form=form)
    yield from updates(tiny)
    yield from updates(tiny, updates=3)
    yield from updates(tiny, seeds=2)
    yield inside(runs.parts, *tiny)
    yield inside(runs.kernels, *tiny)
    yield run(runs.result)
    yield run(runs.pipeline, 4)
    return
  # Programs of small batches are compiled sooner.
  small, large = (10, 32, SMALL), (10, 1024, SMALL)
  more = [(32, 32, SMALL), (10, 32, MIDDLE), (10, 1024, MIDDLE)]
  more += [(32, 1024, SMALL), (10, 32, LARGE), (10, 128, LARGE)]
  between = [(10, batch, SMALL) for batch in (64, 128, 256, 512)]
  for size in (small, large):
    for form in forms:
      yield from updates(size, form=form)
  yield from updates(small, large, dtype="float32")
  yield from updates(small, updates=50)
  yield run(runs.result)
  yield run(runs.pipeline, 32)
  yield from updates(*more[:3])
  yield from updates(small, seeds=16)
  yield inside(runs.kernels, *large)
  yield from updates(*more[3:])
  yield run(runs.pipeline, 1024)
  yield inside(runs.parts, *large)
  yield inside(runs.parts, *small)
  yield inside(runs.kernels, *small)
  yield from updates(*more, dtype="float32")
  yield from updates(small, dtype="float32", updates=50)
  yield from updates(small, dtype="float32", seeds=16)
  yield from updates(*between)
  yield from updates(*between, dtype="float32")


def _name(case):
  image = "x".join(map(str, case.image))
  size = f"{case.experts}/{case.batch}/{image} {case.dtype} {case.form}"
  more = f"{case.updates} updates" if case.updates > 1 else ""
  more += f"{case.seeds} seeds" if case.seeds > 1 else ""
  return f"{size} {more}".strip()


def run_plan(rows: Rows, tasks: Sequence[Task], left: list[str]) -> None:
  """Runs tasks; `left` names those that have not ended."""
  left += [task.name for task in tasks]
  for task in tasks:
    try:
      rows.add(**task.run())
    except Exception as error:  # noqa: BLE001, one row must not end all.
      rows.add("failed", name=task.name, error=repr(error)[:300])
    left.remove(task.name)


def keep_compiled(folder: pathlib.Path) -> None:
  """Keeps compiled programs, and XLA's choices of algorithms, in a folder."""
  folder.mkdir(parents=True, exist_ok=True)
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def main(_) -> None:
  logging.set_verbosity(logging.WARNING)  # Orbax logs every step of a save.
  # PyTorch needs memory too, and programs come in many sizes.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  if _OUT.value:
    keep_compiled(pathlib.Path(_OUT.value).absolute().parent / "compiled")
  rows, left = Rows(_OUT.value, _STARTED), []

  def stop():
    """Ends everything, also in the middle of a compilation."""
    finish(rows, left or ["everything after PyTorch"])
    os._exit(0)

  left_s = _BUDGET_S.value - (time.perf_counter() - _STARTED)
  watchdog = threading.Timer(left_s, stop)
  watchdog.daemon = True
  watchdog.start()
  device = jax.devices()[0]
  smallest = _SMALLEST.value or device.platform == "cpu"
  if _TORCH.value:
    torch_device = "cpu" if device.platform == "cpu" else "cuda"
    measure_torch(rows, torch_device, smallest)
  rates = cases.measure_rates(512 if smallest else 8192)
  rows.add(
    "device",
    name=device.device_kind,
    platform=device.platform,
    jax=jax.__version__,
    **rates,
  )
  measure = lambda case: measure_case(rows, case, rates)
  run_plan(rows, [*plan(measure, _FORMS.value, smallest=smallest)], left)
  watchdog.cancel()
  memory = device.memory_stats() or {}
  if "peak_bytes_in_use" in memory:
    rows.add("memory", peak_gib=memory["peak_bytes_in_use"] / 2**30)
  finish(rows, left)


if __name__ == "__main__":
  app.run(main)
