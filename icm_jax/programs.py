"""The command `icm`, which runs the programs of `experiments` from anywhere.

`icm train ...` is `python -m experiments.train ...` of a checkout. The programs
and their configs are installed inside of this package, where no other package
can be mistaken for them; a checkout has them beside it.
"""

from __future__ import annotations

import pathlib
import runpy
import sys

PROGRAMS = {
  "train": "trains, evaluates and reports a run",
  "evaluate": "evaluates a checkpoint again",
  "report": "draws the page of a run again",
  "restore": "restores pictures by what a run has learned",
  "export": "exports what a run has learned",
  "demo": "shows what a run has learned, in a browser",
  "sweep": "trains a config over seeds and overrides",
  "paper": "trains every experiment of the paper",
  "robustness": "compares classifiers behind experts with others, on MNIST-C",
  "data": "prepares a data set, and reports its content",
  "mechanisms": "draws all mechanisms on faces",
}
_VERSIONS = ("versions", "--version")


def folder() -> pathlib.Path:
  """The folder that contains the package `experiments`."""
  here = pathlib.Path(__file__).parent
  shipped = here / "shipped"
  return shipped if shipped.is_dir() else here.parent


def usage() -> str:
  """What the command prints when it is asked for help."""
  width = max(map(len, PROGRAMS))
  about = {**PROGRAMS, _VERSIONS[0]: "prints what to paste into a report"}
  lines = [f"  icm {name:<{width}}  {text}" for name, text in about.items()]
  return "\n".join(
    [
      "usage: icm PROGRAM [--flag=value ...]",
      "",
      *lines,
      "",
      "icm PROGRAM --help lists the flags of a program.",
    ]
  )


def main() -> int:
  """Runs the program that the first argument names; returns the exit code."""
  name = sys.argv[1] if len(sys.argv) > 1 else ""
  if name in ("-h", "--help", "help"):
    print(usage())
    return 0
  if name in _VERSIONS:
    from icm_jax import versions  # It imports jax.

    versions.main()
    return 0
  if name not in PROGRAMS:
    known = ", ".join(PROGRAMS)
    print(
      f"error: icm needs the name of a program, one of {known}; got {name!r}.",
      file=sys.stderr,
    )
    return 2
  sys.path.insert(0, str(folder()))
  # As Python does for -m; from it, experiments.interrupt knows that a program
  # starts, and that Ctrl-C must end it while its packages are imported.
  sys.argv[:2] = ["-m"]
  runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
