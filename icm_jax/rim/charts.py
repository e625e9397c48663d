"""Figures of experiments with RIMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from icm_jax.viz import charts


def activity(
  active_TR: np.ndarray, null_TR: np.ndarray, title: str
) -> charts.Figure:
  """Draws which RIM is active at which step, and attention on the null row.

  Args:
    active_TR: bool.
    null_TR: float in [0, 1].
    title: title of the figure.
  """
  num_steps, num_rims = active_TR.shape
  figure = charts.Figure(
    figsize=(9, 0.9 + 0.3 * num_rims), layout="constrained"
  )
  pair = figure.subplots(2, 1, sharex=True)
  for axes, value_TR, colours, name in zip(
    pair,
    (active_TR, null_TR),
    ("Greys", "Purples"),
    ("active", "null row"),
    strict=True,
  ):
    axes.imshow(
      value_TR.T, cmap=colours, vmin=0, vmax=1, aspect="auto",
      interpolation="nearest", extent=(0, num_steps, num_rims, 0),
    )  # fmt: skip
    axes.set_yticks(np.arange(num_rims) + 0.5, range(num_rims), fontsize=7)
    axes.set_ylabel(name, fontsize=9)
    axes.tick_params(length=0)
  pair[0].set_title(title, fontsize=10)
  pair[1].set_xlabel("step of the sequence", fontsize=9)
  return figure


def losses(curves: Mapping[str, Sequence[tuple[int, float]]]) -> charts.Figure:
  """Draws the losses of models, given as pairs (update, loss)."""
  figure = charts.Figure(figsize=(6.2, 3.2), layout="constrained")
  axes = figure.subplots()
  for index, (name, points) in enumerate(curves.items()):
    axes.plot(
      *zip(*points, strict=True), label=name, **charts.line_style(index)
    )
  axes.set_xlabel("updates")
  axes.set_ylabel("loss")
  axes.set_ylim(bottom=0)
  axes.legend(fontsize=8)
  charts.tidy(axes)
  return figure
