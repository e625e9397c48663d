"""Sections of a run's page, one for each evaluator that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from icm_jax.evaluation import attributes, detection_table
from icm_jax.viz import html


def _chains(chains: Mapping[str, Any]) -> Iterable[str]:
  """Mechanisms in a row."""
  views = ("before", "greedy", "beam", "clean")
  yield (
    "<h2>Mechanisms in a row</h2><p>Test images after several different "
    "mechanisms, or none, and after chains of experts that the discriminator "
    "chose and ended; images recognised.</p>"
  )
  yield html.table(
    ("mechanisms", "before", "greedy", "beam search", "clean", "experts used"),
    [
      (
        length,
        *(f"{values[view]:.1%}" for view in views),
        f"{values['experts']:.2f}",
      )
      for length, values in chains["by_length"].items()
    ],
  )
  if chains["pairs"]:
    pairs = sorted(chains["pairs"].items(), key=lambda pair: pair[1])
    yield html.details(
      "Pair by pair, after beam search, the worst first",
      "\n".join(f"{right:6.1%}  {names}" for names, right in pairs),
    )


def _detection(
  detection: Mapping[str, Mapping[str, Any]],
  heading: str = "Faces, detected",
) -> Iterable[str]:
  """What a face detector finds."""
  faces = next(iter(detection.values()))["faces"]
  yield (
    f"<h2>{html.text(heading)}</h2><p>Share of the faces that CenterFace "
    f"finds in clean test images, {faces} of them, which it also finds in "
    "other versions of the same images, at an overlap of one half or more. "
    "Restored: by the winner. Oracle: by the mechanism's main expert. "
    "Gated: by the winner where the discriminator prefers its output by so "
    "much as it seldom does for clean images, and else left alone; clean, "
    "gated: the same of clean images. "
    "Classical: by a tool of image processing that is told the mechanism. "
    "In brackets: other faces found, per image.</p>"
  )
  views = (*detection_table.VERSIONS, "clean_gated")

  def cell(recall, false_detections):
    if recall is None:
      return ""
    return f"{recall:.1%} ({false_detections:.2f})"

  lines = [
    (name, *(cell(row[v], row["false_detections"][v]) for v in views))
    for name, row in detection.items()
  ]
  means = ["mean"]
  for view in views:
    pairs = [
      (row[view], row["false_detections"][view]) for row in detection.values()
    ]
    known = pairs[0][0] is not None
    means.append(cell(*np.mean(pairs, axis=0)) if known else "")
  head = ("mechanism", *(view.replace("_", " ") for view in views))
  yield html.table(head, [*lines, means])


def _attributes(measured: Mapping[str, Any]) -> Iterable[str]:
  """What a probe sees."""
  yield (
    "<h2>Attributes, before and after</h2><p>A probe, a classifier that was "
    "trained on labels for this table alone, looks at test images. Seen: the "
    "share of a group's images in which it sees the attribute. Gone: of these, "
    "the share in which it sees it no longer. Others: judgements of all other "
    "attributes that stay as they were; in brackets, images in which every one "
    "does. Same person: how like the faces before and after are, 0 for photos "
    "of two people and 1 for two photos of one. Restored: by the winner. "
    "Oracle: by the group's main expert. The probe's own accuracy on clean "
    "test images is the mean of its accuracies on those with the attribute and "
    "on those without.</p>"
  )
  head = ["attribute", "images", "probe's accuracy", "seen"]
  for version in attributes.VERSIONS:
    head += [f"{what}, {version}" for what in ("gone", "others", "same person")]
  head.append("gone, by expert")
  lines = []
  for name, row in measured["by_group"].items():
    line = [
      name,
      str(row["images"]),
      _percent(measured["probe"][name]["accuracy"]),
      _percent(row["seen"]),
    ]
    for version in attributes.VERSIONS:
      values = row[version]
      others = _percent(values["others_unchanged"])
      if others:
        others += f" ({_percent(values['all_others_unchanged'])})"
      alike = values["relative_likeness"]
      line += [
        _percent(values["gone"]),
        others,
        "" if alike is None else f"{alike:.2f}",
      ]
    line.append(" ".join(map(_percent, row["gone_by_expert"])))
    lines.append(line)
  yield html.table(head, lines)
  alike = measured["likeness"]
  if alike:
    yield (
      "<p>Two photos of one person are more alike to the probe than photos of "
      f"two people in {alike['told_apart']:.1%} of all cases; chance is one "
      "half.</p>"
    )
  yield html.details(
    "The probe itself, on clean test images: accuracy, on those with the "
    "attribute, on those without, how many have it",
    "\n".join(
      f"{_percent(row['accuracy']):>6} {_percent(row['with']):>6} "
      f"{_percent(row['without']):>6} {row['images_with']:5}  {name}"
      + ("" if row["counts"] else ", not counted among others")
      for name, row in measured["probe"].items()
    ),
  )


def _percent(share: float | None) -> str:
  return "" if share is None else f"{share:.1%}"


def _transfer(transfer: Mapping[str, Any]) -> Iterable[str]:
  """The experts on another data set."""
  yield (
    f"<h2>On {html.text(transfer['data'])}</h2><p>Images of a data set that "
    "nothing was trained on. Each mechanism's expert is the main one on "
    "the run's own test images; PSNR of outputs against the clean images.</p>"
  )
  lines = []
  for name, values in transfer["by_mechanism"].items():
    other = values["best_other_psnr_db"]
    lines.append(
      (
        name,
        f"{values['win_share']:.1%}",
        f"{values['psnr_db']:.1f}",
        "" if other is None else f"{other:.1f}",
      )
    )
  head = ("mechanism", "won by its expert", "PSNR, dB", "best other, dB")
  yield html.table(head, lines)
  if transfer["detection"]:
    yield from _detection(
      transfer["detection"], f"Faces, detected on {transfer['data']}"
    )


def _detection_headline(detection: Mapping[str, Mapping[str, Any]]) -> str:
  rows = [*detection.values()]
  if not rows or not rows[0]["faces"]:
    return ""
  restored, transformed = (
    np.mean([row[version] for row in rows])
    for version in ("restored", "transformed")
  )
  return (
    f"a detector finds {restored:.1%} of the faces in restored images "
    f"({transformed:.1%} transformed)"
  )


class Section(NamedTuple):
  """What the page says of an evaluator's value of `result.json`.

  Attributes:
    draw: from the value to pieces of HTML.
    headline: from the value to a part of the page's first sentence, plain
      text; "" if there is nothing to say.
  """

  draw: Callable[[Mapping[str, Any]], Iterable[str]]
  headline: Callable[[Mapping[str, Any]], str] = lambda measured: ""


# By the evaluators' names, in the order of the page.
SECTIONS: dict[str, Section] = {
  "chains": Section(_chains),
  "detection": Section(_detection, _detection_headline),
  "attributes": Section(_attributes),
  "transfer": Section(_transfer),
}


def headlines(result: Mapping[str, Any]) -> list[str]:
  """Parts of the page's first sentence; `result` is that of `result.json`."""
  texts = [
    section.headline(result[name])
    for name, section in SECTIONS.items()
    if result[name] is not None
  ]
  return [text for text in texts if text]


def draw(result: Mapping[str, Any]) -> Iterable[str]:
  """Sections of what was asked for beyond what every run measures.

  Args:
    result: of `result.json`.

  Returns:
    Pieces of HTML.
  """
  for name, section in SECTIONS.items():
    if result[name] is not None:
      yield from section.draw(result[name])
