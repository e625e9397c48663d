"""Prepares every data set found below a folder, and data sets of packages.

  make data-check
  python -m experiments.data_check --samples=DIR

A sub-folder contains original files and has the name of its data set, or the
name that the set's authors use. The program prints a table, writes a page for
each data set, and exits with code 2 if one cannot be prepared.
"""

from __future__ import annotations

import pathlib
import tempfile

from absl import flags

from experiments import console, data, launch
from icm_jax import types
from icm_jax.data import skipped, sources
from icm_jax.viz import contact_sheet

# Data sets that come with packages.
EMBEDDED = ("mnist_5k", "orl_faces")
# Names of data sets by the folder names of their authors.
FOLDERS = {
  "celeba": "celeb_a",
  "yale": "yale_faces",
  "real_and_fake_face": "real_and_fake_faces",
}


def found(samples: pathlib.Path) -> dict[str, pathlib.Path]:
  """Folders of original files by the name of their data set.

  Raises:
    InputError: there is no such folder.
  """
  if not samples.is_dir():
    raise types.InputError(f"There is no folder --samples={samples}.")
  folders = {
    FOLDERS.get(path.name, path.name): path
    for path in sorted(samples.iterdir())
    if path.is_dir()
  }
  return {name: p for name, p in folders.items() if name in sources.SOURCES}


def line(prepared: data.Prepared) -> tuple[str, ...]:
  """The table's line of a data set."""
  images = prepared.data.images
  groups = data.holding(prepared.data)[1:]
  reasons = skipped.by_reason(prepared.data.skipped)
  return (
    prepared.data.name,
    f"{len(images.image_NHWC):,}",
    f"{sum(bool(in_N.any()) for in_N in groups)}/{len(groups)}",
    f"{prepared.seconds:.1f}",
    data.megabytes(sum(data.num_bytes(images))),
    "; ".join(f"{len(names):,} {r}" for r, names in reasons.items()) or "none",
  )


def define_flags() -> None:
  """Defines the flags of the program."""
  flags.DEFINE_string("samples", None, "Folder of data sets.", required=True)
  flags.DEFINE_string("out", data.OUT, "Folder of the pages.")


def main() -> None:
  reporter = console.reporter()
  out = pathlib.Path(flags.FLAGS.out).expanduser()
  folders = found(pathlib.Path(flags.FLAGS.samples).expanduser())
  lines, failed = [], []
  with tempfile.TemporaryDirectory() as data_dir:
    for name in (*EMBEDDED, *folders):
      reporter.say(name)
      try:
        prepared = data.prepare(
          name,
          data_dir=data_dir,
          manual_dir=str(folders.get(name, "")),
          progress=reporter.prepare,
        )
        lines.append(line(prepared))
        data.write_page(prepared, data.tables(prepared, seed=0), out)
      except types.InputError as error:
        failed.append(f"{name}: {error}")
  print(
    data.layout(
      contact_sheet.Table(
        f"Data sets below {flags.FLAGS.samples}; pages in {out}",
        ("data set", "examples", "groups", "seconds", "on disk", "skipped"),
        lines,
        words=True,
      )
    )
  )
  if failed:
    raise types.InputError("; ".join(failed))


if __name__ == "__main__":
  define_flags()
  launch.run(main)
