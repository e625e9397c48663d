"""Figures of runs, drawn without the global state of matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import matplotlib.text
import numpy as np
import scipy.optimize
from matplotlib import patches

from icm_jax.viz import letters

Figure = matplotlib.figure.Figure

# Ten hues that most people can distinguish. Further experts repeat the hues,
# with dashed lines.
_COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee",
    "#aa3377", "#ee8866", "#44bb99", "#222222", "#997700",
)  # fmt: skip
_QUIET = "#c8c8c8"
_WIN = "#d62728"


def expert_order(wins_EM: np.ndarray) -> np.ndarray:
  """Returns experts in the order of their mechanisms, [E], unmatched last."""
  expert_ids, mechanism_ids = scipy.optimize.linear_sum_assignment(
    wins_EM, maximize=True
  )
  matched = expert_ids[np.argsort(mechanism_ids)]
  rest = np.setdiff1d(np.arange(len(wins_EM)), matched)
  return np.concatenate([matched, rest])


def png(figure: Figure, *, dpi: int = 110) -> bytes:
  """Renders a figure to a PNG file."""
  return _render(figure, format="png", dpi=dpi)


def svg(figure: Figure) -> bytes:
  """Renders a figure to an SVG file."""
  return _render(figure, format="svg")


def win_matrices(
  before_EM: np.ndarray, after_EM: np.ndarray, mechanisms: Sequence[str]
) -> Figure:
  """Draws the share of each mechanism's images that each expert won, percent.

  Args:
    before_EM: counts after the identity start, before the competition.
    after_EM: counts at the end.
    mechanisms: M names.
  """
  order_E = expert_order(after_EM)
  num_experts, num_mechanisms = after_EM.shape
  figure = Figure(
    figsize=(1.4 + 1.06 * num_mechanisms, 1.3 + 0.36 * num_experts),
    layout="constrained",
  )
  for axes, wins_EM, title in zip(
    figure.subplots(1, 2, sharey=True),
    (before_EM, after_EM),
    ("before the competition", "after the competition"),
    strict=True,
  ):
    share_EM = 100 * wins_EM / np.maximum(wins_EM.sum(axis=0), 1)
    share_EM = share_EM[order_E]
    axes.imshow(share_EM, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), share in np.ndenumerate(share_EM):
      if share >= 0.5:
        colour = "white" if share > 55 else "#333333"
        axes.text(
            column, row, f"{share:.0f}",
            ha="center", va="center", color=colour, fontsize=8,
        )  # fmt: skip
    axes.set_xticks(
      range(num_mechanisms),
      [letters.drawable(name) for name in mechanisms],
      rotation=45,
      ha="right",
      rotation_mode="anchor",
    )
    axes.set_yticks(range(num_experts), [f"expert {e}" for e in order_E])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=11)
  return figure


def scores_over_steps(
  steps: Sequence[int],
  score_TEM: np.ndarray,
  wins_EM: np.ndarray,
  mechanisms: Sequence[str],
) -> Figure:
  """Draws the paper's figure: every expert's score per mechanism over steps.

  Args:
    steps: T numbers of completed updates.
    score_TEM: mean probability of the discriminator, in [0, 1].
    wins_EM: counts at the end; a mechanism's main expert is drawn in colour.
    mechanisms: M names.
  """
  columns = min(5, len(mechanisms))
  rows = -(-len(mechanisms) // columns)
  figure = Figure(
    figsize=(2.3 * columns, 0.5 + 1.9 * rows), layout="constrained"
  )
  grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
  for axes in grid.flat[len(mechanisms) :]:
    axes.set_visible(False)
  for m, (axes, name) in enumerate(
    zip(grid.flat[: len(mechanisms)], mechanisms, strict=True)
  ):
    main = int(wins_EM[:, m].argmax())
    for e in range(score_TEM.shape[1]):
      if e != main:
        axes.plot(steps, score_TEM[:, e, m], color=_QUIET, linewidth=0.9)
    axes.plot(steps, score_TEM[:, main, m], linewidth=2, **line_style(main))
    axes.set_title(f"{letters.drawable(name)}: expert {main}", fontsize=9)
    axes.set_ylim(-0.02, 1.02)
    tidy(axes)
  figure.supxlabel("steps", fontsize=9)
  figure.supylabel("score D (1 = canonical)", fontsize=9)
  return figure


def wins_over_steps(steps: Sequence[int], wins_TE: np.ndarray) -> Figure:
  """Draws the share of training images that each expert won, over steps.

  Args:
    steps: T numbers of completed updates.
    wins_TE: counts since the last row; shares are averaged over 5 rows.
  """
  share_TE = wins_TE / np.maximum(wins_TE.sum(axis=1, keepdims=True), 1)
  width = min(5, len(share_TE))
  kernel = np.ones(width) / width
  figure = Figure(figsize=(6.2, 3.2), layout="constrained")
  axes = figure.subplots()
  for e in range(share_TE.shape[1]):
    smooth_T = np.convolve(share_TE[:, e], kernel, mode="valid")
    axes.plot(
      steps[width - 1 :], 100 * smooth_T, label=f"expert {e}", **line_style(e)
    )
  axes.axhline(
    100 / share_TE.shape[1], color="black", linestyle=":", linewidth=1
  )
  axes.set_xlabel("steps")
  axes.set_ylabel("images won, %")
  axes.set_ylim(bottom=0)
  axes.legend(fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(1, 1))
  tidy(axes)
  return figure


def accuracy_over_steps(
  steps: Sequence[int],
  restored_T: np.ndarray,
  *,
  clean: float,
  transformed: float,
) -> Figure:
  """Draws the classifier's accuracy on winners' outputs over steps.

  Args:
    steps: T numbers of completed updates.
    restored_T: accuracy on restored images, in [0, 1].
    clean: accuracy on clean images, a reference line.
    transformed: accuracy on transformed images, a reference line.
  """
  figure = Figure(figsize=(5.2, 3.2), layout="constrained")
  axes = figure.subplots()
  for level, name in ((clean, "clean"), (transformed, "transformed")):
    axes.axhline(100 * level, color="black", linestyle=":", linewidth=1)
    axes.annotate(
      f"{name} {100 * level:.1f}",
      (1, 100 * level),
      xycoords=("axes fraction", "data"),
      xytext=(-3, 3 if name == "transformed" else -11),
      textcoords="offset points",
      ha="right",
      fontsize=8,
    )
  axes.plot(steps, 100 * restored_T, color=_COLOURS[0], linewidth=2)
  axes.set_xlabel("steps")
  axes.set_ylabel("restored digits recognised, %")
  axes.set_ylim(0, 103)
  tidy(axes)
  return figure


def accuracy_by_variant(
  names: Sequence[str],
  curves: Sequence[Sequence[tuple[Sequence[int], Sequence[float]]]],
) -> Figure:
  """Draws accuracy on restored images over steps, a panel for each variant.

  Args:
    names: names of the variants.
    curves: for each variant, steps and accuracies of every seed, whose lines
      share a panel.
  """
  figure, panels = _panels(len(names), width=3.2, height=2.4)
  for axes, name, seeds in zip(panels, names, curves, strict=True):
    for index, (steps, accuracy_T) in enumerate(seeds):
      # Markers show runs with a single evaluation, which have no line.
      axes.plot(
        steps,
        100 * np.asarray(accuracy_T),
        linewidth=1.2,
        marker=".",
        markersize=4,
        **line_style(index),
      )
    axes.set_title(_folded(name), fontsize=9)
    axes.set_ylim(0, 103)
    tidy(axes)
  figure.supxlabel("steps", fontsize=9)
  figure.supylabel("recognised, %", fontsize=9)
  return figure


def found_by_variant(
  names: Sequence[str],
  found: Sequence[Sequence[Mapping[str, int | None]]],
  last_step: int,
) -> Figure:
  """Draws steps until each mechanism is found, a panel for each variant.

  Args:
    names: names of the variants.
    found: for each variant, every seed's step by mechanism, a dot; None is
      never, a cross.
    last_step: last step of all runs; "never" is drawn beyond it.
  """
  figure, panels = _panels(len(names), width=3.2, height=2.8)
  never = 1.08 * max(last_step, 1)
  for axes, name, seeds in zip(panels, names, found, strict=True):
    mechanisms = list(seeds[0])
    for index, steps in enumerate(seeds):
      colour = line_style(index)["color"]
      for row, mechanism in enumerate(mechanisms):
        step = steps[mechanism]
        height = row + 0.5 * ((index + 0.5) / len(seeds) - 0.5)
        axes.plot(
          never if step is None else step,
          height,
          marker="x" if step is None else "o",
          color=colour,
          markersize=4,
        )
    axes.set_yticks(
      range(len(mechanisms)), list(map(letters.drawable, mechanisms))
    )
    axes.invert_yaxis()
    axes.set_xlim(-0.02 * never, 1.03 * never)
    axes.set_title(_folded(name), fontsize=9)
    tidy(axes)
  figure.supxlabel("steps", fontsize=9)
  return figure


def recalls(
  scores: Sequence[float], rows: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Figure:
  """Draws the recall of a detector over its least score, before and after.

  Args:
    scores: least scores, in [0, 1].
    rows: by group and size, lists by score: `before` and `after`, in [0, 1],
      and `low` and `high`, the interval of the gain.
  """
  groups = list(dict.fromkeys(group for group, _ in rows))
  sizes = list(dict.fromkeys(size for _, size in rows))
  figure = Figure(
    figsize=(0.6 + 2.3 * len(sizes), 0.6 + 1.9 * len(groups)),
    layout="constrained",
  )
  grid = figure.subplots(
    len(groups), len(sizes), sharex=True, sharey=True, squeeze=False
  )
  for (group, size), row in rows.items():
    axes = grid[groups.index(group), sizes.index(size)]
    before_S = np.array(row["before"])
    axes.fill_between(
      scores,
      before_S + row["low"],
      before_S + row["high"],
      color=_COLOURS[0],
      alpha=0.2,
      linewidth=0,
    )
    axes.plot(scores, before_S, color=_COLOURS[8], label="before")
    axes.plot(scores, row["after"], color=_COLOURS[0], label="after")
    axes.set_title(f"{letters.drawable(group)}, {size} pixels", fontsize=9)
    axes.set_ylim(-0.02, 1.05)
    tidy(axes)
  grid.flat[0].legend(fontsize=7)
  figure.supxlabel("least score", fontsize=9)
  figure.supylabel("faces found", fontsize=9)
  return figure


def _folded(name: str) -> str:
  """Wraps a variant's name to the width of a panel."""
  return textwrap.fill(letters.drawable(name), 34)


def _panels(count: int, *, width: float, height: float):
  """Makes a figure with `count` axes, three per row."""
  columns = min(3, count)
  rows = -(-count // columns)
  figure = Figure(
    figsize=(width * columns, 0.4 + height * rows), layout="constrained"
  )
  axes = list(figure.subplots(rows, columns, squeeze=False).flat)
  for unused in axes[count:]:
    unused.set_visible(False)
  return figure, axes[:count]


def example_grid(
  clean_MHWC: np.ndarray | None,
  transformed_MHWC: np.ndarray,
  output_EMHWC: np.ndarray,
  winner_M: np.ndarray,
  wins_EM: np.ndarray,
  mechanisms: Sequence[str],
) -> Figure:
  """Draws inputs, every expert's outputs with framed winners, and clean images.

  Without clean images, the last column is the winner's change.

  Args:
    clean_MHWC: float in [0, 1], examples of mechanisms before these acted; None
      if images carry their mechanism already.
    transformed_MHWC: the same examples, distorted.
    output_EMHWC: every expert's output for them.
    winner_M: int in [0, E), the winner of each example.
    wins_EM: counts, which determine the order of the experts.
    mechanisms: the mechanism of each example; a name is written once.
  """
  mechanisms = [letters.drawable(name) for name in mechanisms]
  order_E = expert_order(wins_EM)
  num_experts, num_rows = len(wins_EM), len(mechanisms)
  size = 0.52
  names = max(1.0, 0.08 * max(map(len, mechanisms)))
  figure = Figure(
    figsize=(
      0.2 + names + size * (num_experts + 2.6),
      0.5 + size * num_rows,
    )
  )
  left, top = names / figure.get_figwidth(), 1 - 0.45 / figure.get_figheight()
  axes = figure.add_axes((left, 0.0, 1 - left, top))
  axes.set_xlim(-0.6, num_experts + 2.0)
  axes.set_ylim(num_rows - 0.45, -0.55)
  axes.set_axis_off()
  columns = [(-0.1, "input", transformed_MHWC)]
  columns += [(1.2 + i, str(e), output_EMHWC[e]) for i, e in enumerate(order_E)]
  if clean_MHWC is not None:
    columns += [(1.5 + num_experts, "clean", clean_MHWC)]
  else:
    won_MHWC = output_EMHWC[winner_M, np.arange(num_rows)]
    change_MHW1 = np.abs(won_MHWC - transformed_MHWC).mean(-1, keepdims=True)
    columns += [(1.5 + num_experts, "change", (4 * change_MHW1).clip(0, 1))]
  for x, title, image_MHWC in columns:
    axes.text(x, -0.62, title, ha="center", va="bottom", fontsize=9)
    for m, image_HWC in enumerate(image_MHWC):
      axes.imshow(
        image_HWC if image_HWC.shape[-1] == 3 else image_HWC[..., 0],
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(x - 0.45, x + 0.45, m + 0.45, m - 0.45),
      )
  axes.text(
      1.2 + (num_experts - 1) / 2, -1.0, "experts",
      ha="center", va="bottom", fontsize=9,
  )  # fmt: skip
  place_E = np.argsort(order_E)
  for m, (winner, name) in enumerate(zip(winner_M, mechanisms, strict=True)):
    if m == 0 or name != mechanisms[m - 1]:
      axes.text(-0.7, m, name, ha="right", va="center", fontsize=9)
    axes.add_patch(
      patches.Rectangle(
        (1.2 + place_E[winner] - 0.47, m - 0.47),
        0.94,
        0.94,
        fill=False,
        edgecolor=_WIN,
        linewidth=2,
      )  # fmt: skip
    )
  axes.set_xlim(-0.6, num_experts + 2.0)
  axes.set_ylim(num_rows - 0.45, -0.55)
  axes.set_aspect("equal", adjustable="box")
  return figure


def line_style(expert: int) -> dict[str, Any]:
  """Returns the colour and dashes of the line with this index."""
  return {
    "color": _COLOURS[expert % len(_COLOURS)],
    "linestyle": "-" if expert < len(_COLOURS) else "--",
  }


def tidy(axes) -> None:
  """Removes the upper and right spine, and shrinks tick labels."""
  axes.spines[["top", "right"]].set_visible(False)
  axes.tick_params(labelsize=8)


def _render(figure: Figure, **options) -> bytes:
  # Names of groups are no formulas, whatever characters they contain.
  for text in figure.findobj(matplotlib.text.Text):
    text.set_parse_math(False)
  buffer = io.BytesIO()
  figure.savefig(buffer, **options)
  return buffer.getvalue()
