"""Prepares a data set, and reports and shows its content.

  python -m experiments.data --name=celeb_a --data_dir=DIR --manual_dir=DIR \
      --groups=Eyeglasses,Wearing_Hat

Counts go to standard output and, together with a contact sheet, to the page
OUT/NAME.html. Without --groups, every group that the data set knows is counted
independently of the others.
"""

from __future__ import annotations

import pathlib
import re
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments import console, launch
from icm_jax import types
from icm_jax.data import decoded, problem, roles, skipped, sources
from icm_jax.training import atomic_files
from icm_jax.viz import contact_sheet

OUT = "runs/data"
# Columns with more values are not listed value by value.
_MAX_VALUES = 20
_LINE = 80
# The library's errors name the flags of experiments.train.
_OWN_FLAGS = {
  "--config.data.dir": "--data_dir",
  "--config.data.download=True": "--download",
  "--config.data.": "--",
}


class Prepared(NamedTuple):
  """A prepared data set.

  Attributes:
    data: the data set with the chosen groups, or with all that it knows.
    chosen: whether groups were chosen; an example then has at most one role.
    seconds: time that preparing took.
  """

  data: sources.DataSet
  chosen: bool
  seconds: float


def prepare(
  name: str,
  *,
  image_size: int | None = None,
  groups: Sequence[str] = (),
  canonical: str = "",
  **options,
) -> Prepared:
  """Loads a data set.

  Args:
    name: name or folder, as for `sources.load`.
    image_size: height and width in pixels; None is 64, or 32 for digits.
    groups: groups, as for `roles.choose`; empty for those that training uses by
      default, or for all, each independently.
    canonical: rule for canonical examples; "" is the data set's own.
    **options: the other arguments of `sources.load`.

  Raises:
    InputError: the data set cannot be loaded, or a group is unknown; see
      `sources.load` and `roles.choose`.
  """
  source = sources.SOURCES.get(name)
  digits = source is not None and "content" in source.view
  start = time.perf_counter()
  data = sources.load(
    name, image_size=image_size or (32 if digits else 64), **options
  )
  seconds = time.perf_counter() - start
  names = tuple(groups) or data.default_groups  # As training does.
  chosen = roles.choose(data.roles, names) if names else data.roles
  if canonical:
    chosen = chosen._replace(canonical=canonical)
  return Prepared(data._replace(roles=chosen), bool(names), seconds)


def tables(prepared: Prepared, *, seed: int) -> list[contact_sheet.Table]:
  """Makes all tables of the page.

  Args:
    prepared: the data set.
    seed: seed of the problem's halves.

  Raises:
    InputError: a rule cannot be read, or names an unknown column.
  """
  data = prepared.data
  records, arrays = num_bytes(data.images)
  return [
    contact_sheet.Table(
      "Splits", ("split", "examples"), _value_lines(data.images, "split")
    ),
    _role_table(prepared),
    _part_table(prepared, seed),
    _column_table(data),
    contact_sheet.Table(
      "Skipped",
      ("reason", "examples", "names"),
      [
        (reason, f"{len(names):,}", skipped.first(names))
        for reason, names in skipped.by_reason(data.skipped).items()
      ],
      words=True,
    ),
    contact_sheet.Table(
      "Preparation",
      (),
      (
        ("prepared records", megabytes(records)),
        ("decoded arrays", megabytes(arrays)),
        ("seconds", f"{prepared.seconds:.1f}"),
        ("prepared from", data.origin or "not known"),
        ("terms of use", data.terms or "not known"),
      ),
      words=True,
    ),
  ]


def sheet_rows(prepared: Prepared) -> list[contact_sheet.Row]:
  """Returns pictures of every role; without any, of every category or split."""
  data = prepared.data
  if data.roles.groups or data.roles.canonical:
    names = [name for name, _ in rules(data)]
    members = _members(prepared)
  else:
    column = _category(data.images.columns)
    values = np.unique(data.images.columns[column])
    names = [f"{column} {value}" for value in values]
    members = [data.images.columns[column] == value for value in values]
  return [
    contact_sheet.Row(name, _images(member_N.sum()), _some(data, member_N))
    for name, member_N in zip(names, members, strict=True)
  ]


def write_page(
  prepared: Prepared,
  tables: Sequence[contact_sheet.Table],
  out: pathlib.Path,
) -> pathlib.Path:
  """Writes the page of a data set and returns its path.

  Raises:
    InputError: `out` cannot be written.
  """
  data = prepared.data
  text = contact_sheet.page(
    data.name,
    headline(data),
    sheet=contact_sheet.draw(sheet_rows(prepared)),
    caption=(
      f"Up to {contact_sheet.PER_ROW} pictures of each kind as networks see "
      "them, a random but fixed choice."
    ),
    tables=tables,
    details={
      f"All that was skipped: {reason}": "\n".join(names)
      for reason, names in skipped.by_reason(data.skipped).items()
      if skipped.first(names) != ", ".join(names)
    },
  )
  # Names of folders may contain any character, and file names are short.
  name = re.sub(r"[^A-Za-z0-9.-]+", "_", data.name)[-200:].strip("_.")
  path = out / f"{name}.html"
  try:
    out.mkdir(parents=True, exist_ok=True)
    atomic_files.write_bytes(path, text.encode())
  except OSError as error:
    raise types.InputError(
      f"{path} cannot be written ({error.strerror}); choose another folder "
      "with --out=DIR."
    ) from error
  return path


def headline(data: sources.DataSet) -> str:
  """Returns a line about the size of the data set."""
  num_images, *shape = data.images.image_NHWC.shape
  left_out = f", {len(data.skipped):,} skipped" if data.skipped else ""
  return f"{_images(num_images)} of {'x'.join(map(str, shape))}{left_out}"


def rules(data: sources.DataSet) -> list[tuple[str, str]]:
  """Returns names and rules of the roles, canonical first."""
  return [("canonical", data.roles.canonical), *data.roles.groups.items()]


def holding(data: sources.DataSet) -> list[np.ndarray]:
  """Returns whether each rule holds for each example, [N] bool."""
  num_images = len(data.images.image_NHWC)
  return [
    roles.matches(rule, data.images.columns, num_images)
    for _, rule in rules(data)
  ]


def num_bytes(images: decoded.Images) -> tuple[int, int]:
  """Returns bytes of prepared records (0 for folders) and of decoded arrays."""
  folder = pathlib.Path(images.image_NHWC.filename).parent
  return (
    sum(p.stat().st_size for p in folder.parent.parent.glob("*.array_record*")),
    sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
  )


def megabytes(count: int) -> str:
  """Formats a number of bytes."""
  return f"{count / 1e6:,.1f} MB"


def layout(table: contact_sheet.Table) -> str:
  """Returns a table as plain text; "" if it has no lines."""
  if not table.lines:
    return ""
  lines = [list(line) for line in (table.head, *table.lines) if line]
  last = len(lines[0]) - 1
  widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
  indent = sum(widths[:last]) + 2 * last
  text = [table.title]
  for line in lines:
    cells = [
      cell.ljust(width) if number == 0 else cell.rjust(width)
      for number, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    if table.words:
      wrapped = textwrap.wrap(line[last], max(_LINE - indent - 2, 30)) or [""]
      cells[last] = f"\n{' ' * (indent + 2)}".join(wrapped)
    text.append("  " + "  ".join(cells).rstrip())
  return "\n".join(text)


def _role_table(prepared: Prepared) -> contact_sheet.Table:
  data = prepared.data
  members = _members(prepared)
  counts = [[f"{member_N.sum():,}"] for member_N in members]
  if prepared.chosen:
    for line, holds_N in zip(counts, holding(data), strict=True):
      line.append(f"{holds_N.sum():,}")
  lines = [
    (name, *line, rule or "all")
    for (name, rule), line in zip(rules(data), counts, strict=True)
  ]
  if not prepared.chosen:
    return contact_sheet.Table(
      "Roles, each on its own", ("role", "examples", "rule"), lines, words=True
    )
  unused = len(data.images.image_NHWC) - sum(map(np.sum, members))
  lines.append(("unused", f"{unused:,}", "", "no rule holds, or several do"))
  return contact_sheet.Table(
    "Roles",
    ("role", "examples", "rule holds", "rule"),
    lines,
    words=True,
  )


def _part_table(prepared: Prepared, seed: int) -> contact_sheet.Table:
  """Returns parts of the problem, with groups or with image mechanisms."""
  data = prepared.data
  title = "Parts of the problem"
  if not prepared.chosen:
    title = "Parts of the problem, for image mechanisms"
    data = data._replace(roles=data.roles._replace(groups={}))
  try:
    counts = problem.make_problem(data, seed=seed).counts()
  except types.InputError as error:  # The other tables are still of use.
    return contact_sheet.Table(title, (), [("none", str(error))], words=True)
  return contact_sheet.Table(
    title,
    ("part", "images"),
    [(part, f"{count:,}") for part, count in counts.items()],
  )


def _column_table(data: sources.DataSet) -> contact_sheet.Table:
  columns = data.images.columns
  # Columns of these rules are in the table of roles.
  counted = set(data.roles.groups.values())
  return contact_sheet.Table(
    "Columns",
    ("column", "values", "which"),
    [
      (name, f"{len(np.unique(column_N)):,}", _describe(data.images, name))
      for name, column_N in columns.items()
      if name != "split" and f"{name}=1" not in counted
    ],
    words=True,
  )


def _describe(images: decoded.Images, name: str) -> str:
  column_N = images.columns[name]
  if column_N.dtype == bool:
    return f"yes {column_N.sum():,} ({column_N.mean():.1%})"
  if len(np.unique(column_N)) <= _most_values(images.columns):
    lines = _value_lines(images, name)
    # Lines must not break between a value and its count.
    space = "\N{NO-BREAK SPACE}"
    return ", ".join(f"{v or '(none)'}:{space}{count}" for v, count in lines)
  if column_N.dtype.kind == "U":
    return f"such as {column_N[0]}"
  return f"{column_N.min()} to {column_N.max()}"


def _value_lines(images: decoded.Images, name: str) -> list[tuple[str, str]]:
  values, counts = np.unique(images.columns[name], return_counts=True)
  return [
    (str(value), f"{count:,}")
    for value, count in zip(values, counts, strict=True)
  ]


def _members(prepared: Prepared) -> list[np.ndarray]:
  """Returns whether each example has each role, [N] bool."""
  data = prepared.data
  if not prepared.chosen:
    return holding(data)
  role_N = roles.assign(
    data.roles, data.images.columns, len(data.images.image_NHWC)
  )
  return [role_N == role for role in range(1 + len(data.roles.groups))]


def _category(columns: Mapping[str, np.ndarray]) -> str:
  """Returns the column with the fewest categories; without any, the split."""
  found = {
    name: len(np.unique(column_N))
    for name, column_N in columns.items()
    if name != "split" and (column_N.dtype.kind == "U" or name == "label")
  }
  most = _most_values(columns)
  found = {name: size for name, size in found.items() if 2 <= size <= most}
  return min(found, key=found.get, default="split")


def _most_values(columns: Mapping[str, np.ndarray]) -> int:
  """Returns the largest number of values of a column of categories."""
  return min(_MAX_VALUES, len(columns["split"]) // 2)


def _some(data: sources.DataSet, member_N: np.ndarray) -> np.ndarray:
  ids = np.random.default_rng(0).permutation(np.flatnonzero(member_N))
  return data.images.image_NHWC[np.sort(ids[: contact_sheet.PER_ROW])]


def _images(count: int) -> str:
  return f"{count:,} image{'' if count == 1 else 's'}"


def define_flags() -> None:
  """Defines the flags of the program."""
  define = flags.DEFINE_string
  define("name", None, f"One of {', '.join(sources.KINDS)}.", required=True)
  define("data_dir", "", "Prepared data; default: the folder of tfds.")
  define("manual_dir", "", "Original files; default: below --data_dir.")
  define("canonical", "", "Rule for canonical images; default: the data's own.")
  define("out", OUT, "Folder of the page.")
  flags.DEFINE_list("groups", [], "Known groups, or rules as column=value.")
  flags.DEFINE_integer("image_size", None, "Pixels; default: 64, digits 32.")
  flags.DEFINE_integer("crop", None, "Centre square, pixels; 0: the largest.")
  flags.DEFINE_integer("channels", None, "1 (grey) or 3 (RGB).")
  flags.DEFINE_integer("seed", 0, "Seed of the halves.", lower_bound=0)
  flags.DEFINE_integer(
    "max_images", sources.MAX_IMAGES, "Larger folders are refused."
  )
  flags.DEFINE_bool("download", False, "Whether missing files may be loaded.")


def main() -> None:
  f, reporter = flags.FLAGS, console.reporter()
  try:
    prepared = prepare(
      f.name,
      image_size=f.image_size,
      groups=f.groups,
      canonical=f.canonical,
      view={"crop": f.crop, "channels": f.channels},
      data_dir=f.data_dir,
      manual_dir=f.manual_dir,
      download=f.download,
      max_images=f.max_images,
      progress=reporter.prepare,
    )
    counted = tables(prepared, seed=f.seed)
    page = write_page(prepared, counted, pathlib.Path(f.out).expanduser())
  except types.InputError as error:
    message = str(error)
    for theirs, ours in _OWN_FLAGS.items():
      message = message.replace(theirs, ours)
    raise types.InputError(message) from error
  texts = [f"{f.name}: {headline(prepared.data)}", *map(layout, counted)]
  print("\n\n".join(filter(None, texts)))
  reporter.say(f"open {page}")


if __name__ == "__main__":
  define_flags()
  launch.run(main)
