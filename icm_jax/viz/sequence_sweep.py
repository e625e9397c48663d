"""What a sweep of sequence runs came to: its table, and its page."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icm_jax.viz import html, sequence_report

if TYPE_CHECKING:
  from icm_jax.viz import sweep


def line(one: sweep.Finished) -> dict[str, Any]:
  """A run's line of `results.csv`: the measure of every model on every test."""
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


def sections(finished: Sequence[sweep.Finished]) -> list[str]:
  """What the page says of the runs that ended; there is at least one."""
  result = finished[0].result
  variants: dict[str, list[sweep.Finished]] = {}
  for one in finished:
    variants.setdefault(one.run.variant, []).append(one)
  # Runs may differ in their tests, and in their models.
  tests = dict.fromkeys(t for one in finished for t in one.result["variants"])
  better = "higher" if result["higher_is_better"] else "lower"
  return [
    f"<p>{html.text(result['measure'].capitalize())}; {better} is better. "
    "Trained on the first test's kind only. Medians over seeds, and in "
    "brackets the least and the most.</p>",
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
  """Median, least and most of a model's measures on a test, if it had it."""
  result = ones[0].result
  values = [
    one.result["table"][model][test]
    for one in ones
    if test in one.result["table"].get(model, {})
  ]
  text = functools.partial(sequence_report.value_text, result=result)
  if not values:
    return ""
  middle = text(statistics.median(values))
  if len(values) == 1:
    return middle
  return f"{middle} ({text(min(values))} to {text(max(values))})"
