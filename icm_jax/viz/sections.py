"""Sections of a run's page, one for each requested evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from icm_jax.data import skipped
from icm_jax.evaluation import attributes, detection_table, detectors
from icm_jax.viz import charts, html


def _chains(chains: Mapping[str, Any]) -> Iterable[str]:
  """Yields the section on mechanisms in a row."""
  views = ("before", "greedy", "beam", "clean")
  yield (
    "<h2>Mechanisms in a row</h2><p>Share of recognised test images: after "
    "none, one or several different mechanisms, before and after chains of "
    "experts. The discriminator chose every expert, and when to stop.</p>"
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
      "Pairs of mechanisms after beam search, the worst first",
      "\n".join(f"{right:6.1%}  {names}" for names, right in pairs),
    )


def _detection(
  detection: Mapping[str, Mapping[str, Any]],
  heading: str = "Faces, detected",
) -> Iterable[str]:
  """Yields the section on faces that a detector finds."""
  faces = next(iter(detection.values()))["faces"]
  yield (
    f"<h2>{html.text(heading)}</h2><p>CenterFace finds {faces} faces in clean "
    "test images. The table has the share of them that it also finds in other "
    "versions of the same images, at an overlap of one half or more. "
    "Restored: the winner's output. Oracle: the output of the mechanism's main "
    "expert. Gated: the winner's output if it raises the discriminator's score "
    "by more than a margin that few clean images exceed, otherwise the "
    "unchanged image. Clean gated: clean images after the same gate. "
    "Classical: the output of a tool of image processing that is told the "
    "mechanism. In brackets: other detections per image.</p>"
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
  """Yields the section on attributes that a probe sees."""
  yield (
    "<h2>Attributes, before and after</h2><p>A probe, a classifier that was "
    "trained on labels for this table alone, judges test images. Seen: the "
    "share of a group's images in which the probe sees the attribute. Gone: "
    "the share of these images in which the probe no longer sees it. Others: "
    "the share of judgements of other attributes that do not change; in "
    "brackets, the share of images in which none of them changes. Shifted by a "
    "pixel: the same if no expert acts, but images move, which changes no "
    "attribute. Others right: the share of these judgements that agree with "
    "labels. Same person: similarity of the faces before and after, where 0 is "
    "that of photos of two people and 1 that of two photos of one person. "
    "Restored: the winner's output. Oracle: the output of the group's own "
    "expert, which wins most of its images (won by own: their share). The "
    "probe's accuracy is the mean of its accuracies on clean test images with "
    "the attribute and without it.</p>"
  )
  yield _group_rows(measured["by_group"], measured["probe"])
  if canonical := measured["canonical"]:
    yield _gated("canonical test images", canonical)
  alike = measured["likeness"]
  if alike:
    yield (
      "<p>To the probe, two photos of one person are more similar than photos "
      f"of two people in {alike['told_apart']:.1%} of all cases; chance is one "
      "half.</p>"
    )
  yield html.details(
    "The probe on clean test images: accuracy, accuracy on images with the "
    "attribute, accuracy on images without it, number of images with it",
    "\n".join(
      f"{_percent(row['accuracy']):>6} {_percent(row['with']):>6} "
      f"{_percent(row['without']):>6} {row['images_with']:5}  {name}"
      + ("" if row["counts"] else ", not counted among others")
      for name, row in measured["probe"].items()
    ),
  )


def _group_rows(
  by_group: Mapping[str, Mapping[str, Any] | None],
  probe: Mapping[str, Mapping[str, Any]],
) -> str:
  """A table of groups; without those of which there is no image."""
  head = ["attribute", "images", "won by own", "probe's accuracy", "seen"]
  for version in attributes.VERSIONS:
    head += [f"{what}, {version}" for what in ("gone", "others", "same person")]
  head += ["others, shifted by a pixel", "others right, before and restored"]
  head += ["gone, by expert"]
  lines = []
  for name, row in by_group.items():
    if row is None:
      continue
    line = [
      name,
      str(row["images"]),
      _percent(row["won_by_own"]),
      _percent(probe[name]["accuracy"]),
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
    # Earlier versions did not record these.
    line.append(_percent(row.get("others_kept_shifted")))
    right = (row.get(f"others_right_{when}") for when in ("before", "after"))
    line.append(" ".join(map(_percent, right)))
    line.append(" ".join(map(_percent, row["gone_by_expert"])))
    lines.append(line)
  return html.table(head, lines)


def _gated(images: str, measured: Mapping[str, Any]) -> str:
  """A sentence about images without an attribute of a group."""
  kept = measured["kept"]  # None if the probe is too weak to count.
  judged = (
    ""
    if kept is None
    else f", and {kept:.1%} of the probe's judgements do not change"
  )
  return (
    f"<p>Of {measured['images']:,} {images}, the gate leaves "
    f"{1 - measured['changed']:.1%} alone. Through it, the mean change is "
    f"{measured['change']:.4f} of the pixel range{judged}; "
    f"without it, the mean change is {measured['change_ungated']:.4f}.</p>"
  )


def _percent(share: float | None) -> str:
  return "" if share is None else f"{share:.1%}"


def _transfer(transfer: Mapping[str, Any]) -> Iterable[str]:
  """Yields the section on the experts on another data set."""
  yield (
    f"<h2>On {html.text(transfer['data'])}</h2><p>Images of a data set on "
    "which nothing was trained. A mechanism's expert is its main expert on the "
    "run's own test images.</p>"
  )
  # Earlier versions did not record it.
  if reasons := transfer.get("skipped_by_reason"):
    yield f"<p>{html.text(skipped.describe(reasons))}</p>"
  if "attributes" in transfer:
    yield from _transferred_attributes(transfer["attributes"])
    return
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
  yield "<p>PSNR compares outputs with clean images.</p>"
  yield html.table(head, lines)
  if transfer["detection"]:
    yield from _detection(
      transfer["detection"], f"Faces, detected on {transfer['data']}"
    )


def _transferred_attributes(measured: Mapping[str, Any]) -> Iterable[str]:
  """Yields the part on attributes in images of another data set."""
  yield (
    f"<p>The probe that judged the run's own test images looks at "
    f"{measured['images']:,} images. A row has those in which it sees one "
    "attribute of a group. Columns are those of the run's own test images; the "
    "accuracy is the probe's on these.</p>"
  )
  yield _group_rows(measured["by_group"], measured["probe"])
  if none := measured["none"]:
    yield _gated("images in which it sees none", none)


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


def _recall_curves(measured: Mapping[str, Any]) -> Iterable[str]:
  """Yields the section on detectors of faces with what they wear."""
  for name, by_group in measured["by_detector"].items():
    rows = {
      (group, size): row
      for group, by_size in by_group.items()
      for size, row in by_size.items()
      if row is not None
    }
    if rows:
      title = detectors.DETECTORS[name].title
      yield from _recall_curves_of(title, measured["scores"], rows)


def _recall_curves_of(
  title: str,
  scores: Sequence[float],
  rows: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Iterable[str]:
  """Yields the part on one detector; rows by group and size."""
  yield (
    f"<h2>Faces with what they wear, by {title}</h2><p>The share of a group's "
    "test images whose face is found where canonical faces lie, by the "
    "least score that counts, before experts and after the winner. Images are "
    "reduced to several sizes after the experts. The band is the 95 % interval "
    "of the gain, by a bootstrap over people, drawn around the share before: "
    "where it lies above that line, the gain is not chance.</p>"
  )
  figure = charts.recalls(scores, rows)
  yield html.image(charts.svg(figure), "svg+xml", "recall over scores")
  score = scores.index(0.5)
  yield html.table(
    (
      *("group", "size", "images", "people"),
      *("before, score 0.5", "after", "95 % interval of the gain"),
      "false per image, before and after",
    ),
    [
      (
        *(group, size, str(row["images"]), str(row["people"])),
        *(f"{row[key][score]:.1%}" for key in ("before", "after")),
        f"{row['low'][score]:+.1%} to {row['high'][score]:+.1%}",
        f"{row['elsewhere_before'][score]:.3f}, "
        f"{row['elsewhere_after'][score]:.3f}",
      )
      for (group, size), row in rows.items()
    ],
  )


class Section(NamedTuple):
  """A section of the page, drawn from an evaluator's value in `result.json`.

  Attributes:
    draw: function from the value to pieces of HTML.
    headline: function from the value to a part of the page's first sentence,
      plain text; "" if there is nothing to say.
  """

  draw: Callable[[Mapping[str, Any]], Iterable[str]]
  headline: Callable[[Mapping[str, Any]], str] = lambda measured: ""


# Sections by the evaluators' names, in the order of the page.
SECTIONS: dict[str, Section] = {
  "chains": Section(_chains),
  "detection": Section(_detection, _detection_headline),
  "attributes": Section(_attributes),
  "recall_curves": Section(_recall_curves),
  "transfer": Section(_transfer),
}


def headlines(result: Mapping[str, Any]) -> list[str]:
  """Returns parts of the page's first sentence.

  Args:
    result: content of `result.json`.
  """
  texts = [
    section.headline(result[name])
    for name, section in SECTIONS.items()
    if result[name] is not None
  ]
  return [text for text in texts if text]


def draw(result: Mapping[str, Any]) -> Iterable[str]:
  """Draws the sections of all requested evaluators.

  Args:
    result: content of `result.json`.

  Yields:
    Pieces of HTML.
  """
  for name, section in SECTIONS.items():
    if result[name] is not None:
      yield from section.draw(result[name])
