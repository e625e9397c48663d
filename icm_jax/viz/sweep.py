"""The table of a sweep's runs, and one page to compare them.

`write` draws runs of any kind by a `Layout`; `IMAGES` is the layout of runs on
images.
"""

from __future__ import annotations

import csv
import io
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from icm_jax import types
from icm_jax.evaluation import specialisation
from icm_jax.training import atomic_files, run_folder
from icm_jax.viz import charts, html

RESULTS = "results.csv"
PAGE = "sweep.html"
PLAIN = "as it is"


class SweepRun(NamedTuple):
  """A run of a sweep: its variant's name, seed and folder."""

  variant: str
  seed: int
  workdir: pathlib.Path


class Finished(NamedTuple):
  """A run that ended: its `result.json` and its rows of metrics."""

  run: SweepRun
  result: dict[str, Any]
  rows: list[dict[str, Any]]


class Layout(NamedTuple):
  """How runs of one kind appear in the table and on the page of a sweep.

  Attributes:
    line: `line(finished)`, a run's line of `results.csv` by column.
    sections: `sections(all_finished)`, the markup of the page.
  """

  line: Callable[[Finished], dict[str, Any]]
  sections: Callable[[Sequence[Finished]], list[str]]


def write(
  root: pathlib.Path, runs: Sequence[SweepRun], layout: Layout
) -> pathlib.Path:
  """Writes `results.csv` and `sweep.html` of the runs that have a result.

  Args:
    root: folder of the sweep; made if it does not exist.
    runs: all runs of the sweep, in the order in which variants appear.
    layout: the layout of runs of this kind.

  Returns:
    The path of the page.
  """
  finished = []
  for run in runs:
    try:
      result = run_folder.read_result(run.workdir)
    except types.InputError:  # A damaged result is none.
      continue
    if result is not None:
      rows = run_folder.read_metrics(run.workdir)
      finished.append(Finished(run, result, rows))
  root.mkdir(parents=True, exist_ok=True)
  table = [layout.line(one) for one in finished]
  buffer = io.StringIO()
  # Runs may differ in their mechanisms, and so in their columns.
  columns = list(dict.fromkeys(name for line in table for name in line))
  writer = csv.DictWriter(buffer, columns, lineterminator="\n")
  writer.writeheader()
  writer.writerows(table)
  atomic_files.write_bytes(root / RESULTS, buffer.getvalue().encode())
  unfinished = [run for run in runs if run not in {f.run for f in finished}]
  page = html.page(
    "sweep",
    [
      f"<h1>A sweep, {len(finished)} finished</h1>",
      *_missing(unfinished),
      *layout.sections(finished),
    ],
  )
  atomic_files.write_bytes(root / PAGE, page.encode())
  return root / PAGE


def steps_until_all(result: dict[str, Any]) -> float:
  """Steps until every mechanism had its expert; infinite if one has none."""
  found = result["found_steps"].values()
  return math.inf if None in found else max(found)


def _line(one: Finished) -> dict[str, Any]:
  result, until = one.result, steps_until_all(one.result)
  accuracy = result["classifier"] or {}
  chains = result["chains"]["by_length"] if result["chains"] else {}
  return {
    "variant": one.run.variant,
    "seed": one.run.seed,
    "steps": result["steps"],
    "experts": result["experts"],
    "active_experts": result["active_experts"],
    "mechanisms": len(result["mechanisms"]),
    "owned": _owned(result),
    "one_to_one": result["one_to_one"],
    "coverage": result["coverage"],
    "matched": result["matched"],
    **{
      view: accuracy.get(view) for view in ("restored", "clean", "transformed")
    },
    "steps_until_all": None if math.isinf(until) else until,
    **{
      f"row_of_{length}/{view}": values[view]
      for length, values in chains.items()
      for view in ("before", "greedy", "beam", "clean")
    },
    "train_s": result["time"]["train_s"],
    "total_s": result["time"]["total_s"],
    "commit": result["versions"].get("commit"),
    **{f"found/{name}": step for name, step in result["found_steps"].items()},
  }


def _owned(result: dict[str, Any]) -> int:
  return int(specialisation.owned(np.array(result["wins"])).sum())


def _missing(unfinished: Sequence[SweepRun]) -> Iterable[str]:
  """Yields a list of the runs without a result, if there are any."""
  if unfinished:
    yield (
      '<p class="bad">Without a result: '
      + html.text(
        "; ".join(f"{run.variant}, seed {run.seed}" for run in unfinished)
      )
      + ".</p>"
    )


def _sections(finished: Sequence[Finished]) -> list[str]:
  """Returns the sections of a page of runs on images."""
  variants: dict[str, list[Finished]] = {}
  for one in finished:
    variants.setdefault(one.run.variant, []).append(one)
  names = list(variants)
  sections = [
    "<p>Found: the first step from which a mechanism's main expert wins at "
    f"least {specialisation.LEARNED_SHARE:.0%} of its images, as exact as "
    "evaluations were frequent. Values are medians over seeds; a mechanism "
    "without an expert of its own at the end was never found.</p>",
    html.table(
      (
        "variant", "seeds", "one to one", "mechanisms owned",
        "active experts", "all found, steps", "restored", "clean",
      ),
      [_summary(name, ones) for name, ones in variants.items()],
    ),
  ]  # fmt: skip
  curves = [[_curve(one) for one in ones] for ones in variants.values()]
  if any(len(steps) for ones in curves for steps, _ in ones):
    sections += [
      "<h2>Restored images, recognised, over steps</h2>",
      _figure(charts.accuracy_by_variant(names, curves), "accuracy over steps"),
    ]
  if finished:
    sections += [
      "<h2>Steps until each mechanism has its expert</h2><p>Every dot is a "
      "seed; crosses at the right are mechanisms that were never found.</p>",
      _figure(
        charts.found_by_variant(
          names,
          [[one.result["found_steps"] for one in v] for v in variants.values()],
          max(one.result["steps"] for one in finished),
        ),
        "steps until found",
      ),
      "<h2>Run by run</h2>",
      html.table(
        ("variant", "seed", "owned", "active experts", "all found", "restored"),
        [
          (
            one.run.variant,
            str(one.run.seed),
            f"{_owned(one.result)} of {len(one.result['mechanisms'])}",
            f"{one.result['active_experts']} of {one.result['experts']}",
            _steps(steps_until_all(one.result)),
            _restored(one.result),
          )
          for one in finished
        ],
      ),
    ]
  return sections


def _summary(name: str, ones: Sequence[Finished]) -> tuple[str, ...]:
  results = [one.result for one in ones]
  perfect = sum(result["one_to_one"] for result in results)
  until = statistics.median_high(map(steps_until_all, results))
  views = (
    f"{statistics.median(r['classifier'][view] for r in results):.1%}"
    if all(r["classifier"] for r in results)
    else ""
    for view in ("restored", "clean")
  )
  return (
    name,
    str(len(ones)),
    f"{perfect} of {len(ones)}",
    f"{statistics.median(map(_owned, results)):g}",
    f"{statistics.median(r['active_experts'] for r in results):g}",
    _steps(until),
    *views,
  )


def _steps(steps: float) -> str:
  return "never" if math.isinf(steps) else f"{steps:g}"


def _restored(result: dict[str, Any]) -> str:
  accuracy = result["classifier"]
  return f"{accuracy['restored']:.1%}" if accuracy else ""


def _curve(one: Finished) -> tuple[list[int], list[float]]:
  """Returns steps and the accuracies on restored images; may be empty."""
  name = "evaluation/accuracy/restored_M"
  rows = [row for row in one.rows if name in row]
  return (
    [row["step"] for row in rows],
    [float(np.mean(row[name])) for row in rows],
  )


def _figure(figure: charts.Figure, alternative: str) -> str:
  return html.image(charts.svg(figure), "svg+xml", alternative)


IMAGES = Layout(_line, _sections)
