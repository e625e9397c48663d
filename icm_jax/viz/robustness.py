"""The table and the figure of errors of classifiers on corrupted images."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np

from icm_jax.training import atomic_files
from icm_jax.viz import charts

RESULTS, TABLE, FIGURE = "robustness.json", "robustness.md", "robustness.png"

# Errors in percent, by method and corruption.
Errors = Mapping[str, Mapping[str, float]]


def write(
  root: pathlib.Path,
  *,
  seeds: Sequence[int],
  errors: Sequence[Errors],
  milliseconds: Sequence[Mapping[str, float]],
  kept: Sequence[Errors],
  panels: Mapping[str, Sequence[str]],
  clean: str,
) -> pathlib.Path:
  """Writes `robustness.json`, `robustness.md` and `robustness.png`.

  Args:
    root: folder of the files.
    seeds: one for each element of the lists below.
    errors: errors of each seed.
    milliseconds: time for an image by method, of each seed.
    kept: images that experts left alone in percent, by front and corruption, of
      each seed.
    panels: methods that the figure shows side by side, by titles.
    clean: the name of clean images, which do not count in the mean.

  Returns:
    The path of the figure.
  """
  means = [
    {method: mean_error(by_name, clean) for method, by_name in one.items()}
    for one in errors
  ]
  atomic_files.write_json(
    root / RESULTS,
    [
      {"seed": seed, "mean": mean, "error": error, "ms": ms, "left_alone": left}
      for seed, mean, error, ms, left in zip(
        seeds, means, errors, milliseconds, kept, strict=True
      )
    ],
  )
  table = "\n".join(_lines(errors, means, milliseconds, clean)) + "\n"
  atomic_files.write_bytes(root / TABLE, table.encode())
  figure = errors_by_corruption(errors, panels, clean)
  atomic_files.write_bytes(root / FIGURE, charts.png(figure, dpi=130))
  return root / FIGURE


def mean_error(by_name: Mapping[str, float], clean: str) -> float:
  """Mean error over all corruptions, in percent."""
  return statistics.fmean(e for name, e in by_name.items() if name != clean)


def _lines(errors, means, milliseconds, clean):
  """Lines of the table: corruptions, their mean, and the time of an image."""
  methods = list(errors[0])
  yield "| error, % | " + " | ".join(methods) + " |"
  yield "| --- |" + " --- |" * len(methods)
  rows = [
    (
      "clean" if name == clean else name,
      [[one[m][name] for one in errors] for m in methods],
    )
    for name in errors[0][methods[0]]
  ]
  rows.append(
    ("mean of corruptions", [[one[m] for one in means] for m in methods])
  )
  for name, values in rows:
    yield f"| {name} | " + " | ".join(map(_with_deviation, values)) + " |"
  times = [statistics.median(one[m] for one in milliseconds) for m in methods]
  yield "| ms an image | " + " | ".join(f"{t:.2f}" for t in times) + " |"


def _with_deviation(values: Sequence[float]) -> str:
  mean = statistics.fmean(values)
  if len(values) == 1:
    return f"{mean:.1f}"
  return f"{mean:.1f} ± {statistics.stdev(values):.1f}"


def errors_by_corruption(
  errors: Sequence[Errors], panels: Mapping[str, Sequence[str]], clean: str
) -> matplotlib.figure.Figure:
  """Draws a row for each corruption, with a point for each method.

  Args:
    errors: errors of each seed; points are at their means.
    panels: methods side by side, by titles.
    clean: the name of clean images.
  """
  names = list(next(iter(errors[0].values())))
  figure = charts.Figure(
    figsize=(12.0, 2.0 + 0.3 * len(names)), layout="constrained"
  )
  place_N = np.arange(len(names))[::-1]
  columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  for axes, (title, methods) in zip(columns, panels.items(), strict=True):
    for index, method in enumerate(methods):
      mean_N = np.mean(
        [[one[method][name] for name in names] for one in errors], axis=0
      )
      colour = charts.line_style(index)["color"]
      axes.plot(mean_N, place_N, "o", markersize=6, color=colour, label=method)
    axes.set_title(title, fontsize=10)
    axes.set_yticks(place_N, ["clean" if n == clean else n for n in names])
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(0, 100)
    ticks = [0, 1, 2, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("errors, percent", fontsize=9)
    axes.grid(axis="y", color="#eeeeee")
    axes.legend(
      loc="upper center",
      bbox_to_anchor=(0.5, -0.12),
      ncols=3,
      frameon=False,
      fontsize=8,
    )
    charts.tidy(axes)
  return figure
