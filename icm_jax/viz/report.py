"""The self-contained HTML page of a run on images, drawn from its files."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from icm_jax.data import skipped
from icm_jax.evaluation import specialisation
from icm_jax.training import atomic_files, run_folder
from icm_jax.viz import charts, html, run_files, sections

_METHOD = (
  "Every input image was distorted by one of {num_mechanisms} unknown "
  "mechanisms. {num_experts} experts, small networks that turn an image into "
  "an image, all try to repair it, and a discriminator scores how much each "
  "output looks like an undistorted image. The best output wins, and only "
  "its expert learns from that image. The method is not told which mechanism "
  "acted, and no distorted image comes with its original. In the end, each "
  "expert should be the inverse of exactly one mechanism."
)

_RECOGNISED = (
  " Recognised: the accuracy of a classifier that was trained on clean images, "
  "on transformed, restored and clean test images."
)
_PSNR = " PSNR: the winner's output compared with the clean image."


def headline(result: Mapping[str, Any]) -> str:
  """Returns the result as a sentence without a full stop."""
  wins_EM = np.array(result["wins"])
  owned_M = specialisation.owned(wins_EM)
  accuracy = result["classifier"]
  text = (
    f"{owned_M.sum()} of {len(owned_M)} mechanisms have an expert of their own"
  )
  if accuracy:
    text += (
      f"; {accuracy['restored']:.1%} of restored images are recognised "
      f"({accuracy['transformed']:.1%} transformed, "
      f"{accuracy['clean']:.1%} clean)"
    )
  return "; ".join([text, *sections.headlines(result)])


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Draws `report.html` and `grid.png` of a run on images.

  Args:
    workdir: folder of a finished run.

  Returns:
    The path of the page.

  Raises:
    InputError: the run has no result yet, or is of another format.
  """
  result, rows, examples = run_files.read(workdir)
  grid = charts.png(
    charts.example_grid(
      examples.get("clean_MHWC"),
      examples["transformed_MHWC"],
      examples["output_EMHWC"],
      examples["winner_M"],
      np.array(result["wins"]),
      [result["mechanisms"][m] for m in examples["mechanism_M"]],
    )
  )
  atomic_files.write_bytes(workdir / run_folder.GRID, grid)
  page = _page(result, rows, grid)
  path = workdir / run_folder.PAGE
  atomic_files.write_bytes(path, page.encode())
  return path


def _page(
  result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], grid: bytes
) -> str:
  parts = [
    f"<h1>Independent causal mechanisms on {html.text(result['data']['name'])}"
    "</h1>",
    f'<p class="headline {"good" if result["one_to_one"] else "bad"}">'
    f"{html.text(headline(result))}.</p>",
    "<p>"
    + _METHOD.format(
      num_mechanisms=len(result["mechanisms"]),
      num_experts=result["experts"],
    )
    + "</p>",
    "<h2>What each expert does</h2><p>Test images of every mechanism, and what "
    "every expert makes of them. The winner is framed."
    + (
      " No expert has ever seen the clean image.</p>"
      if result["psnr_db"]
      else " Change: where, and how much, the winner changes the image; white "
      "is a fourth of the pixel range or more.</p>"
    ),
    html.image(
      grid, "png", "input, every expert's output, and the last column"
    ),
    *_course(result, rows),
    "<h2>Mechanism by mechanism</h2>",
    _mechanism_table(result),
    "<p>Main expert: the expert that won most of the mechanism's test images. "
    "Found: the first step from which it won at least nine tenths of them; "
    "empty if the mechanism has no expert of its own. "
    f"{result['active_experts']} of {result['experts']} experts are active."
    + (_RECOGNISED if result["classifier"] else "")
    + (_PSNR if result["psnr_db"] else "")
    + "</p>",
    *sections.draw(result),
    "<h2>The run</h2>",
    html.table(
      (),
      (
        *run_files.facts(result),
        (
          "images",
          "{transformed} transformed, {canonical} canonical, {test} test "
          "({evaluated} transformed test images evaluated)".format(
            **result["data"]
          ),
        ),
        ("left out", _left_out(result["data"])),
      ),
    ),
    html.details("Config", html.flags(result["config"])),
  ]
  return html.page(result["data"]["name"], parts)


def _left_out(data: Mapping[str, Any]) -> str:
  """Images that have no part, and pictures that were skipped."""
  if "skipped" not in data:
    return "not recorded by the version that measured this run"
  reasons = skipped.describe(data["skipped_by_reason"])
  return f"{data['unused']:,} images are in no part; {reasons}"


def _course(
  result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
  """Yields sections about the training from the rows of `metrics.jsonl`."""
  mechanisms = result["mechanisms"]
  wins_EM = np.array(result["wins"])
  evaluations = [row for row in rows if "evaluation/wins_EM" in row]
  if evaluations:
    steps = [row["step"] for row in evaluations]
    yield (
      "<h2>Wins by mechanism</h2><p>Share of each mechanism's test images "
      "that each expert won, in percent. A perfect result has one 100 in every "
      "row and column.</p>"
    )
    yield _figure(
      charts.win_matrices(
        np.array(evaluations[0]["evaluation/wins_EM"]), wins_EM, mechanisms
      ),
      "win matrices",
    )
    yield (
      "<h2>How experts specialised</h2><p>Score of every expert on each "
      "mechanism's test images. The coloured line is the mechanism's main "
      "expert at the end.</p>"
    )
    yield _figure(
      charts.scores_over_steps(
        steps,
        np.array([row["evaluation/score_EM"] for row in evaluations]),
        wins_EM,
        mechanisms,
      ),
      "scores over steps",
    )
  yield '<div class="row">'
  training = [row for row in rows if "competition/wins_E" in row]
  if training:
    yield "<figure><h2>Wins per expert</h2>"
    yield _figure(
      charts.wins_over_steps(
        [row["step"] for row in training],
        np.array([row["competition/wins_E"] for row in training]),
      ),
      "wins over steps",
    )
    yield f"<p>{_moves(training)}</p></figure>"
  if evaluations and result["classifier"]:
    restored_T = np.array(
      [np.mean(row["evaluation/accuracy/restored_M"]) for row in evaluations]
    )
    yield "<figure><h2>Restored images, recognised</h2>"
    yield _figure(
      charts.accuracy_over_steps(
        steps,
        restored_T,
        clean=result["classifier"]["clean"],
        transformed=result["classifier"]["transformed"],
      ),
      "accuracy over steps",
    )
    yield "</figure>"
  yield "</div>"


def _moves(training: Sequence[Mapping[str, Any]]) -> str:
  """Returns a sentence about when idle experts were moved, if any could be."""
  moves = [
    f"expert {e} by step {row['step']}"
    for row in training
    for e, moved in enumerate(row.get("competition/moved_E", ()))
    if moved
  ]
  if not moves:
    return "Dotted line: an equal share. No idle expert was moved."
  return (
    "Dotted line: an equal share. Idle experts restarted as copies of busy "
    "ones: " + ", ".join(moves) + "."
  )


def _mechanism_table(result: Mapping[str, Any]) -> str:
  wins_EM = np.array(result["wins"])
  share_M = specialisation.main_share(wins_EM)
  recognised, psnr_db = result["classifier"], result["psnr_db"]
  views = ("transformed", "restored", "clean") if recognised else ()
  lines = []
  for m, name in enumerate(result["mechanisms"]):
    found = result["found_steps"][name]
    line = [name, f"{wins_EM[:, m].argmax()}", f"{share_M[m]:.1%}"]
    line.append("" if found is None else f"{found}")
    line += [f"{recognised['per_mechanism'][name][v]:.1%}" for v in views]
    if psnr_db:
      line.append(f"{psnr_db[name]:.1f}")
    lines.append(line)
  mean = ["all", "", f"{result['coverage']:.1%}", ""]
  mean += [f"{recognised[view]:.1%}" for view in views]
  head = ["mechanism", "main expert", "won by it", "found, steps"]
  head += [f"{view}, recognised" for view in views]
  if psnr_db:
    mean.append("")
    head.append("PSNR, dB")
  return html.table(head, [*lines, mean])


def _figure(figure: charts.Figure, alternative: str) -> str:
  return html.image(charts.svg(figure), "svg+xml", alternative)
