"""MNIST-C for tests: the benchmark's files, or made from test digits."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import mechanisms, rng, types
from icm_jax.data import problem as problem_lib
from icm_jax.data import sources
from icm_jax.mechanisms import corruptions

CLEAN = "identity"  # The benchmark's name of clean images.


class Benchmark(NamedTuple):
  """Test images by corruption, clean ones first.

  Attributes:
    image_NHWC: uint8, by the benchmark's names.
    label_N: int32, by the benchmark's names.
    digest: changes with the images.
  """

  image_NHWC: Mapping[str, np.ndarray]
  label_N: Mapping[str, np.ndarray]
  digest: str


def read(
  folder: str, *, image_size: int, data_dir: str, most: int
) -> Benchmark:
  """Reads MNIST-C.

  Args:
    folder: folder or zip of the benchmark.
    image_size: height and width of the result, in pixels; at least 28.
    data_dir: folder of prepared data sets, see `sources.load`.
    most: largest number of images of each corruption.

  Raises:
    InputError: files are missing or damaged.
  """
  path = pathlib.Path(folder).expanduser()
  data = sources.load(
    "mnist_c",
    image_size=image_size,
    data_dir=data_dir,
    manual_dir=str(path.parent if path.suffix == ".zip" else path),
  )
  name_N = data.images.columns["corruption"]
  label_N = np.asarray(data.images.label_N)
  ids = {
    name: _spread(np.flatnonzero(name_N == name), most)
    for name in (CLEAN, *corruptions.BENCHMARK)
  }
  if missing := [name for name, found in ids.items() if not len(found)]:
    raise types.InputError(
      f"{folder} has no images of {', '.join(missing)}; all "
      "fifteen corruptions and `identity` are needed."
    )
  return _benchmark(
    {name: data.images.image_NHWC[found] for name, found in ids.items()},
    {name: label_N[found] for name, found in ids.items()},
  )


def make(problem: problem_lib.Problem, most: int) -> Benchmark:
  """Distorts test images by the benchmark's corruptions, alike for all seeds.

  Args:
    problem: digits, whose test part is used.
    most: largest number of images of each corruption.
  """
  ids = _spread(problem.test_ids, most)
  clean_NHWC = np.asarray(problem.images.image_NHWC[ids])
  images = {CLEAN: clean_NHWC}
  x_NHWC = problem_lib.to_float(jnp.asarray(clean_NHWC))
  for name, mechanism in corruptions.BENCHMARK.items():
    (function,) = mechanisms.by_names((mechanism,), {})
    key_N = jax.random.split(rng.stream(jax.random.key(0), name), len(ids))
    y_NHWC = jax.jit(jax.vmap(function))(key_N, x_NHWC)
    images[name] = np.round(255 * np.asarray(y_NHWC)).astype(np.uint8)
  label_N = np.asarray(problem.images.label_N)[ids]
  return _benchmark(images, dict.fromkeys(images, label_N))


def _spread(ids: np.ndarray, most: int) -> np.ndarray:
  """At most so many ids, evenly spread: a data set may be sorted by class."""
  count = min(most, len(ids))
  return ids[np.arange(count) * len(ids) // count] if count else ids


def _benchmark(images, labels) -> Benchmark:
  digest = hashlib.sha256()
  for array in (*images.values(), *labels.values()):
    digest.update(np.ascontiguousarray(array).tobytes())
  return Benchmark(images, labels, digest.hexdigest())
