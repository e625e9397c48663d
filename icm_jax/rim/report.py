"""The page of an experiment with RIMs, from the files in its folder."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from icm_jax.data import skipped
from icm_jax.rim import charts
from icm_jax.training import atomic_files, run_folder
from icm_jax.viz import charts as viz_charts
from icm_jax.viz import html, run_files

_METHOD = (
  "Recurrent independent mechanisms (RIMs) are small recurrent networks with "
  "parameters of their own. At every step each of them attends to the input "
  "and to a row of zeros, the null row. Those with the least attention on the "
  "null row are active: only they read the input, update their states and "
  "attend to the other RIMs. Models of other kinds were trained on the same "
  "batches for comparison."
)


def headline(result: Mapping[str, Any]) -> str:
  """Returns the result as a sentence."""
  values = ", ".join(
    f"{name} {value_text(value, result)}"
    for name, value in result["test"].items()
  )
  return f"{result['measure']} on {result['variants'][-1]}: {values}"


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Draws `report.html` of a run with RIMs.

  Args:
    workdir: folder of a finished run.

  Returns:
    The path of the page.

  Raises:
    InputError: the run has no result yet.
  """
  path = workdir / run_folder.PAGE
  atomic_files.write_bytes(path, _page(*run_files.read(workdir)).encode())
  return path


def _page(
  result: Mapping[str, Any],
  rows: Sequence[Mapping[str, Any]],
  arrays: Mapping[str, np.ndarray],
) -> str:
  variants = result["variants"]
  sections = [
    f"<h1>Recurrent independent mechanisms: {html.text(result['task'])}</h1>",
    f'<p class="headline">{html.text(headline(result))}.</p>',
    f"<p>{_METHOD}</p>",
    "<h2>Results on all tests</h2><p>Models were trained on the variant of the "
    f"first column only, and measured on {result['measured']} sequences. "
    f"{html.text(result['measure'].capitalize())}; "
    f"{'higher' if result['higher_is_better'] else 'lower'} is better.</p>",
    html.table(
      ["model", "parameters", "updates", *variants],
      [
        [
          name,
          f"{result['parameters'][name]:,}",
          f"{result['updates'][name]:,}",
          *(value_text(line[variant], result) for variant in variants),
        ]
        for name, line in result["table"].items()
      ],
    ),
    *_rasters(variants, arrays),
    *_training(result, rows),
    "<h2>The run</h2>",
    *_skipped(result),
    html.table((), run_files.facts(result)),
    html.details("Config", html.flags(result["config"])),
  ]
  return html.page(result["task"], sections)


def _skipped(result: Mapping[str, Any]) -> Iterable[str]:
  # Earlier versions did not record it, and most tasks read no pictures.
  if reasons := result.get("skipped_by_reason"):
    yield f"<p>{html.text(skipped.describe(reasons))}</p>"


def value_text(value: float, result: Mapping[str, Any]) -> str:
  """Formats a measure for people."""
  if result["measure"] == "accuracy":
    return f"{value:.1%}"
  return f"{value:.4f}"


def _rasters(
  variants: Sequence[str], arrays: Mapping[str, np.ndarray]
) -> Iterable[str]:
  """Draws the activity of RIMs on one sequence of each variant."""
  names = sorted({key.split("/")[0] for key in arrays})
  for name in names:
    yield (
      "<h2>Active RIMs</h2><p>One test sequence of each variant. The upper "
      "chart is black where a RIM is active. The lower chart shows attention "
      "on the null row, from 0 (white) to 1 (dark).</p>"
    )
    for index, variant in enumerate(variants):
      figure = charts.activity(
        arrays[f"{name}/active_BTR/{index}"][0],
        arrays[f"{name}/null_BTR/{index}"][0],
        f"{name}, {variant}",
      )
      yield html.image(
        viz_charts.svg(figure), "svg+xml", f"activity, {variant}"
      )


def _training(
  result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
  """Draws the losses of all models over their own updates."""
  updates = result["config"]["train"]["updates"]
  curves = {}
  for index, name in enumerate(result["table"]):
    points = [
      (row["step"] - index * updates, row[f"loss/{name}"])
      for row in rows
      if f"loss/{name}" in row
    ]
    if points:
      curves[name] = points
  if curves:
    yield "<h2>Training</h2><p>Loss on training batches.</p>"
    figure = charts.losses(curves)
    yield html.image(viz_charts.svg(figure), "svg+xml", "losses")
