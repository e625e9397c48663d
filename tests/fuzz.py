"""Gives readers of files, and configs, what nobody has thought of.

  python -m tests.fuzz --cases=10000

Whatever a file holds, a reader must either read it, or refuse it by the one
error that it documents; a traceback of another kind is a failure, with the
smallest case that brings it about. The program ends with a table, and with exit
code 1 if there was a failure.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import random
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable

import hypothesis

from icm_jax.data import roles, sources
from icm_jax.training import build
from tests import fuzz_targets


def draw_data(
  data: sources.DataSet, patch: Callable[..., None] = setattr
) -> None:
  """Puts made-up images in the place of the embedded digits."""
  load = build.sources.load

  def load_or_draw(name, **options):
    return data if name == "mnist_5k" else load(name, **options)

  patch(build.sources, "load", load_or_draw)


def fuzz(name: str, cases: int, *, seed: int | None = None) -> dict[str, int]:
  """Gives a target many cases.

  Args:
    name: name of the target.
    cases: number of cases.
    seed: seed of the cases; None draws the same ones at every call.

  Returns:
    How many cases were read and how many were refused.

  Raises:
    Exception: a case raised another error than a refusal; notes describe it.
  """
  target = fuzz_targets.TARGETS[name]
  counts = collections.Counter()

  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)

    @hypothesis.settings(
      max_examples=cases,
      deadline=None,
      database=None,
      derandomize=seed is None,
      report_multiple_bugs=False,
      phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
      suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(target.cases)
    def try_case(case):
      try:
        target.use(folder, case)
      except target.refusals as error:
        assert "\n" not in str(error).strip(), error
        counts["refused"] += 1
      else:
        counts["read"] += 1

    if seed is not None:
      try_case = hypothesis.seed(seed)(try_case)
    try_case()
  return counts


def main() -> int:
  """Fuzzes all targets; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--cases", type=int, default=10_000)
  parser.add_argument("--seed", type=int, default=None)
  parser.add_argument("--targets", default=",".join(fuzz_targets.TARGETS))
  options = parser.parse_args()
  seed = options.seed
  if seed is None:
    seed = random.randrange(10**6)
  warnings.simplefilter("ignore")
  from tests import conftest

  images = conftest.drawn_images(160, num_test=40)
  draw_data(sources.DataSet("drawn", images, roles.Roles(), (), ""))
  total, failed, lines = collections.Counter(), 0, []
  for name in options.targets.split(","):
    cases = options.cases * fuzz_targets.TARGETS[name].share // 100
    try:
      counts = fuzz(name, cases, seed=seed)
    except Exception:
      traceback.print_exc()
      failed += 1
      lines.append(f"{name:<20}  FAILED")
      continue
    total += counts
    lines.append(f"{name:<20} {counts['read']:>7} {counts['refused']:>8}")
  print(f"{f'seed {seed}':<20} {'read':>7} {'refused':>8}", *lines, sep="\n")
  print(f"{'all':<20} {total['read']:>7} {total['refused']:>8}")
  return int(failed > 0)


if __name__ == "__main__":
  sys.exit(main())
