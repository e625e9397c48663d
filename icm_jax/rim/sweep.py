"""The table and the page of a sweep of experiments with RIMs."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from typing import Any

from icm_jax.rim import report
from icm_jax.viz import html, sweep


def _line(one: sweep.Finished) -> dict[str, Any]:
  """Returns a run's line of `results.csv`, with every model on every test."""
  result = one.result
  return {
    "variant": one.run.variant,
    "seed": one.run.seed,
    "steps": result["steps"],
    **{
      f"{model}/{test}": value
      for model, values in result["table"].items()
      for test, value in values.items()
    },
    "train_s": result["time"]["train_s"],
    "total_s": result["time"]["total_s"],
    "commit": result["versions"].get("commit"),
  }


def _sections(finished: Sequence[sweep.Finished]) -> list[str]:
  """Returns tables of finished runs: medians over seeds, then run by run."""
  if not finished:
    return []
  result = finished[0].result
  variants: dict[str, list[sweep.Finished]] = {}
  for one in finished:
    variants.setdefault(one.run.variant, []).append(one)
  # Runs may differ in their tests and in their models.
  tests = dict.fromkeys(t for one in finished for t in one.result["variants"])
  better = "higher" if result["higher_is_better"] else "lower"
  return [
    f"<p>{html.text(result['measure'].capitalize())}; {better} is "
    "better. Models were trained on the variant of the first test only. Values "
    "are medians over seeds, with the range in brackets.</p>",
    html.table(
      ("variant", "model", "seeds", *tests),
      [
        (
          name,
          model,
          str(len(ones)),
          *(_range(ones, model, test) for test in tests),
        )
        for name, ones in variants.items()
        for model in ones[0].result["table"]
      ],
    ),
    "<h2>Run by run</h2>",
    html.table(
      ("variant", "seed", "model", *tests),
      [
        (
          one.run.variant,
          str(one.run.seed),
          model,
          *(_range([one], model, test) for test in tests),
        )
        for one in finished
        for model in one.result["table"]
      ],
    ),
  ]


def _range(ones, model, test) -> str:
  """Formats the median and range of a model's measures on a test, if any."""
  result = ones[0].result
  values = [
    one.result["table"][model][test]
    for one in ones
    if test in one.result["table"].get(model, {})
  ]
  text = functools.partial(report.value_text, result=result)
  if not values:
    return ""
  middle = text(statistics.median(values))
  if len(values) == 1:
    return middle
  return f"{middle} ({text(min(values))} to {text(max(values))})"


LAYOUT = sweep.Layout(_line, _sections)
