"""The page of a sequence experiment: who is active when, how far it goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from icm_jax.viz import charts, html

_METHOD = (
  "Recurrent independent mechanisms (RIMs) are small recurrent networks with "
  "parameters of their own. At every step each may look at the input or at a "
  "row of zeros, the null row; those that look least at the null row are "
  "active: only they read, step and ask the others. Beside them, models of "
  "other kinds were trained on the same batches."
)


def headline(result: Mapping[str, Any]) -> str:
  """The result in a sentence."""
  values = ", ".join(
    f"{name} {value_text(value, result)}"
    for name, value in result["test"].items()
  )
  return f"{result['measure']} on {result['variants'][-1]}: {values}"


def page(
  result: Mapping[str, Any],
  rows: Sequence[Mapping[str, Any]],
  arrays: Mapping[str, np.ndarray],
  run_facts: Iterable[tuple[str, str]],
) -> str:
  """The page, as a document.

  Args:
    result: of `result.json`.
    rows: of `metrics.jsonl`.
    arrays: of `examples.npz`.
    run_facts: facts about the run, with their names.
  """
  variants = result["variants"]
  sections = [
    f"<h1>Recurrent independent mechanisms: {html.text(result['task'])}</h1>",
    f'<p class="headline">{html.text(headline(result))}.</p>',
    f"<p>{_METHOD}</p>",
    "<h2>How far it goes</h2><p>Trained on the first column only. "
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
    *_course(result, rows),
    "<h2>The run</h2>",
    html.table((), run_facts),
    html.details("Config", html.flags(result["config"])),
  ]
  return html.page(result["task"], sections)


def value_text(value: float, result: Mapping[str, Any]) -> str:
  """A measure as people read it."""
  if result["measure"] == "accuracy":
    return f"{value:.1%}"
  return f"{value:.4f}"


def _rasters(
  variants: Sequence[str], arrays: Mapping[str, np.ndarray]
) -> Iterable[str]:
  """Sections of what RIMs do on one sequence of each variant."""
  names = sorted({key.split("/")[0] for key in arrays})
  for name in names:
    yield (
      "<h2>Who is active when</h2><p>One test sequence each. Above: black "
      "where a RIM is active. Below: attention on the null row, from 0, white, "
      "to 1, dark.</p>"
    )
    for index, variant in enumerate(variants):
      figure = charts.activity(
        arrays[f"{name}/active_BTR/{index}"][0],
        arrays[f"{name}/null_BTR/{index}"][0],
        f"{name}, {variant}",
      )
      yield html.image(charts.svg(figure), "svg+xml", f"activity, {variant}")


def _course(
  result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
  """The losses of all models over their own updates."""
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
    yield "<h2>Training</h2><p>Loss on the batches of training.</p>"
    yield html.image(charts.svg(charts.losses(curves)), "svg+xml", "losses")
