"""Compares the corruptions with pictures that MNIST-C's own program made.

  python -m benchmarks.corruptions --benchmark=DIR

DIR has the benchmark's folders, such as `fog/test_images.npy`, and `identity`
with the clean images of the same digits. Prints a row for each corruption, and
exits with code 1 if one misses its goal:

- A corruption without chance, or with a random side only, has a share of pixels
  within one grey level of the benchmark's (`equal`) of at least 99 %; the best
  of the draws counts for each image.
- Any other has a mean and a standard deviation of all pixels within 2 % of the
  benchmark's; `mean` and `deviation` are ratios of ours to theirs.

`roughness` is the ratio of the root mean squares of differences between
neighbours in a row, and `histogram` the share of pixels that would have to
change between 16 bins of grey levels.
"""

import argparse
import pathlib
import sys
from typing import NamedTuple

import jax
import numpy as np

from icm_jax import mechanisms
from icm_jax.mechanisms import corruptions

EXACT = (
  "shear",
  "scale",
  "rotate",
  "brightness",
  "translate",
  "stripe",
  "canny_edges",
)
LEAST_EQUAL, MOST_OFF = 0.99, 0.02
_BINS = np.linspace(0, 256, 17)


class Row(NamedTuple):
  """How a corruption compares with the benchmark's; see the module."""

  name: str
  equal: float
  mean: float
  deviation: float
  roughness: float
  histogram: float

  @property
  def reached(self) -> bool:
    if self.name in EXACT:
      return self.equal >= LEAST_EQUAL
    return max(abs(self.mean - 1), abs(self.deviation - 1)) <= MOST_OFF


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--benchmark", type=pathlib.Path, required=True)
  parser.add_argument("--draws", type=int, default=32)
  arguments = parser.parse_args()
  print(f"{'corruption':14}{'goal':>7}", *(f"{f:>10}" for f in Row._fields[1:]))
  missed = 0
  for name in corruptions.BENCHMARK:
    row = compare(arguments.benchmark, name, draws=arguments.draws)
    goal = "met" if row.reached else "MISSED"
    print(f"{name:14}{goal:>7}", *(f"{x:10.4f}" for x in row[1:]), flush=True)
    missed += not row.reached
  sys.exit(missed > 0)


def compare(
  folder: pathlib.Path, name: str, *, draws: int, images: int | None = None
) -> Row:
  """Compares a corruption with the benchmark's pictures.

  Args:
    folder: the benchmark's folders.
    name: the benchmark's name of the corruption.
    draws: how often each image is corrupted.
    images: number of images, from the first; None is all.
  """
  clean_NHWC, theirs_NHWC = (
    np.load(folder / each / "test_images.npy", allow_pickle=False)[:images]
    for each in ("identity", name)
  )
  mechanism = mechanisms.MECHANISMS[corruptions.BENCHMARK[name]]
  corrupt = jax.jit(jax.vmap(mechanism))
  x_NHWC = clean_NHWC.astype(np.float32) / 255
  ours, equal_N = [], np.zeros(len(x_NHWC))
  for draw in range(draws):
    keys = jax.random.split(jax.random.key(draw), len(x_NHWC))
    grey_NHWC = np.round(255 * np.asarray(corrupt(keys, x_NHWC)))
    off_NHWC = np.abs(grey_NHWC - theirs_NHWC)
    equal_N = np.maximum(equal_N, (off_NHWC <= 1).mean(axis=(1, 2, 3)))
    ours.append(_statistics(grey_NHWC))
  mean, square, rough, *bins = np.mean(ours, axis=0)
  their_mean, their_square, their_rough, *their_bins = _statistics(theirs_NHWC)
  return Row(
    name,
    equal=equal_N.mean(),
    mean=mean / their_mean,
    deviation=np.sqrt((square - mean**2) / (their_square - their_mean**2)),
    roughness=np.sqrt(rough / their_rough),
    histogram=np.abs(np.subtract(bins, their_bins)).sum() / 2,
  )


def _statistics(grey_NHWC: np.ndarray) -> np.ndarray:
  """Mean, mean square, mean square of differences in rows, and a histogram."""
  grey_NHWC = grey_NHWC.astype(np.float64)
  bins, _ = np.histogram(grey_NHWC, _BINS)
  return np.array(
    [
      grey_NHWC.mean(),
      np.square(grey_NHWC).mean(),
      np.square(np.diff(grey_NHWC, axis=2)).mean(),
      *bins / grey_NHWC.size,
    ]
  )


if __name__ == "__main__":
  main()
