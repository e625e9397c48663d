"""Restores pictures by what a run has learned.

  python -m experiments.restore --workdir=runs/faces --images=DIR --out=OUT

Pictures are read as those of the run were: cut to a square, of the run's size
and colours. The program writes them to OUT/pictures, as PNG files of the same
names, and a line on each to OUT/table.csv: the experts that were used, the
mechanisms that these undo, the discriminator's score of the restored picture,
by how much experts raise the score, and whether the picture was changed, left
alone or skipped, and why. OUT/sheet.png shows pictures before and after.
"""

from __future__ import annotations

import collections
import csv
import io
import math
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from absl import flags

import icm_jax
from experiments import console, launch
from icm_jax import types
from icm_jax.learned import loading, picture_files
from icm_jax.training import atomic_files
from icm_jax.viz import contact_sheet

PICTURES, TABLE, SHEET = "pictures", "table.csv", "sheet.png"
HEAD = (
  "file",
  "restored",
  "winner",
  "mechanism",
  "score",
  "change",
  "outcome",
  "reason",
)
_MOST_ROWS = 40
_PAIRS = contact_sheet.PER_ROW // 2


def paths_of(texts: Sequence[str]) -> list[pathlib.Path]:
  """Paths of `--images`: each text is a path, or several, split at commas."""
  paths = []
  for text in texts:
    whole = pathlib.Path(text).expanduser()
    parts = [text] if whole.exists() else text.split(",")
    paths += [pathlib.Path(part.strip()).expanduser() for part in parts if part]
  return paths


def check_out(
  out: pathlib.Path, planned: Sequence[picture_files.Planned]
) -> None:
  """Makes sure that no file is lost.

  Raises:
    InputError: a picture would be written over one that is read, or as in
      `launch.check_free`.
  """
  written = [out / PICTURES / one.written for one in planned if one.written]
  originals = {one.path.resolve() for one in planned}
  for path in written:
    if path.resolve() in originals:
      raise types.InputError(
        f"{path} is one of the pictures to restore, and would be overwritten; "
        "choose another folder with --out=DIR."
      )
  launch.check_free(out, [*written, out / TABLE, out / SHEET])


def table(
  done: Sequence[picture_files.Done], mechanism_of: Sequence[str]
) -> bytes:
  """The table as a CSV file; several experts are in the order of their use."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(HEAD)
  for one in done:
    line = [one.planned.name, "", "", "", "", "", "skipped", one.skipped]
    if not one.skipped:
      line = [
        one.planned.name,
        f"{PICTURES}/{one.planned.written}",
        " > ".join(map(str, one.experts)),
        _names(one.experts, mechanism_of),
        f"{one.score:.4f}",
        f"{one.change:.4f}",
        "changed" if one.experts else "left alone",
        "",
      ]
    writer.writerow(line)
  # Names of files may hold what no text can.
  return text.getvalue().encode("utf-8", "replace")


def sheet(
  done: Sequence[picture_files.Done], mechanism_of: Sequence[str]
) -> bytes:
  """A contact sheet: a row for every chain of experts, the commonest first."""
  counts = collections.Counter(one.experts for one in done if not one.skipped)
  return contact_sheet.draw(
    [
      _row(
        experts,
        count,
        [
          one
          for one in done
          if one.experts == experts and one.before_HWC is not None
        ],
        mechanism_of,
      )
      for experts, count in counts.most_common(_MOST_ROWS)
    ]
  )


def gather(done: Iterable[picture_files.Done]) -> list[picture_files.Done]:
  """What became of the pictures; only as many arrays are kept as are drawn."""
  kept: list[picture_files.Done] = []
  counts: collections.Counter[tuple[int, ...]] = collections.Counter()
  for one in done:
    counts[one.experts] += not one.skipped
    if counts[one.experts] > (_PAIRS if one.experts else contact_sheet.PER_ROW):
      one = one._replace(before_HWC=None, after_HWC=None)
    kept.append(one)
  return kept


def _names(experts: Sequence[int], mechanism_of: Sequence[str]) -> str:
  """What experts undo, in their order."""
  return " > ".join(mechanism_of[expert] or "unknown" for expert in experts)


def _row(experts, count, members, mechanism_of) -> contact_sheet.Row:
  note = f"{count:,} picture{'s' * (count > 1)}"
  if not experts:
    return contact_sheet.Row(
      "left alone", note, np.stack([one.before_HWC for one in members])
    )
  names = _names(experts, mechanism_of)
  return contact_sheet.Row(
    f"expert {' > '.join(map(str, experts))}: {names}",
    f"{note}; before, after",
    np.stack(
      [
        image_HWC
        for one in members
        for image_HWC in (one.before_HWC, one.after_HWC)
      ]
    ),
  )


def summary(done: Sequence[picture_files.Done]) -> str:
  """Numbers of pictures, and the reasons for which some were skipped."""
  reasons = collections.Counter(one.skipped for one in done if one.skipped)
  changed = sum(bool(one.experts) for one in done)
  text = (
    f"{changed:,} pictures changed, "
    f"{len(done) - changed - reasons.total():,} left alone, "
    f"{reasons.total():,} skipped"
  )
  why = ", ".join(f"{count:,} {why}" for why, count in reasons.most_common())
  return f"{text} ({why})" if why else text


def choose_margin(learned: loading.Learned) -> tuple[float, str]:
  """The run's margin, and where it comes from; 0 where it measured none."""
  try:
    return learned.margin, "as the run measured it"
  except types.InputError:
    return 0.0, "for the run has measured none; choose one with --margin=NUMBER"


def define_flags() -> None:
  """Defines the flags of the program."""
  launch.define_workdir()
  flags.DEFINE_multi_string(
    "images", None, "A folder, a file, or several, split at commas"
  )
  flags.DEFINE_string("out", None, "Folder for what is written.", required=True)
  flags.DEFINE_integer("steps", None, "Checkpoint; default: the newest one.")
  flags.DEFINE_float(
    "margin",
    None,
    "Logits by which experts must raise a picture's score, or it is left "
    "alone; -inf changes every picture. Default: the run's own, or 0.",
  )
  flags.DEFINE_bool("chain", False, "Whether several experts may act in a row.")
  flags.DEFINE_bool("overwrite", False, "Whether files may be overwritten.")
  flags.mark_flag_as_required("images")


def main() -> None:
  f, reporter = flags.FLAGS, console.reporter()
  if f.margin is not None and math.isnan(f.margin):
    raise types.InputError("--margin must be a number of logits; got nan.")
  out = pathlib.Path(f.out).expanduser()
  planned = picture_files.plan(
    paths_of(f.images), written=(out / PICTURES, out / SHEET)
  )
  check_out(out, planned)
  learned = icm_jax.load(launch.workdir(), steps=f.steps)
  margin, source = f.margin, "as --margin says"
  if margin is None:
    margin, source = choose_margin(learned)
  reporter.say(
    f"step {learned.steps}; experts must gain {margin:.4g} logits, {source}"
  )
  try:
    out.mkdir(parents=True, exist_ok=True)
    done = gather(
      picture_files.restore(
        learned,
        planned,
        out / PICTURES,
        margin=margin,
        chain=f.chain,
        progress=lambda done, total: reporter.prepare("restoring", done, total),
      )
    )
    atomic_files.write_bytes(out / TABLE, table(done, learned.mechanism_of))
    if any(not one.skipped for one in done):
      atomic_files.write_bytes(out / SHEET, sheet(done, learned.mechanism_of))
  except OSError as error:
    raise types.InputError(launch.cannot_write(out, error)) from error
  reporter.say(summary(done))
  if all(one.skipped for one in done):
    raise launch.Failed(f"No picture could be read; {out / TABLE} says why.")
  reporter.say(f"open {out / SHEET}")


if __name__ == "__main__":
  define_flags()
  launch.run(main)
