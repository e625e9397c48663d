"""How a data set becomes a problem: two halves, batches, a held-out test."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import mechanisms as mechanisms_lib
from icm_jax import rng, types
from icm_jax.data import sources


class Problem(NamedTuple):
  """Images, and which of them play which part.

  Attributes:
    name: of the data set.
    train: for the experts, the discriminator and the evaluation classifier.
    test: seen by none of them.
    transformed_ids: indices into `train` of images that only ever appear
      transformed.
    canonical_ids: indices into `train` of images that only ever appear as they
      are; disjoint from `transformed_ids`.
  """

  name: str
  train: sources.Images
  test: sources.Images
  transformed_ids: np.ndarray
  canonical_ids: np.ndarray

  @property
  def shape_HWC(self) -> tuple[int, int, int]:
    return self.train.image_NHWC.shape[1:]


def make_problem(
  name: str,
  splits: Mapping[str, sources.Images],
  *,
  image_size: int,
  seed: int,
) -> Problem:
  """Pads the images and draws the two halves.

  Args:
    name: of the data set.
    splits: "train" and "test".
    image_size: height and width in pixels, zeros around the image.
    seed: of the halves.

  Raises:
    InputError: images do not fit into `image_size`.
  """
  padded = {split: _pad(images, image_size) for split, images in splits.items()}
  num_train = len(padded["train"].label_N)
  order = _generator(seed, "halves").permutation(num_train)
  return Problem(
    name=name,
    train=padded["train"],
    test=padded["test"],
    transformed_ids=np.sort(order[: num_train // 2]),
    canonical_ids=np.sort(order[num_train // 2 :]),
  )


def draw_ids(
  pool: np.ndarray, *, seed: int, name: str, step: int, batch_size: int
) -> np.ndarray:
  """The examples of one step: a pure function of its arguments.

  Every epoch is a new permutation of the pool; what is left of it after the
  last full batch is not used in that epoch.

  Args:
    pool: ids to draw from.
    seed: of the run.
    name: of the use, so that two uses draw independently.
    step: at least 0.
    batch_size: at most the size of the pool.

  Returns:
    [batch_size] ids, all different.

  Raises:
    InputError: the batch is larger than the pool.
  """
  if not 1 <= batch_size <= len(pool):
    raise types.InputError(
      f"The batch size must be at least 1 and at most {len(pool)}, the "
      f"number of images for {name!r}; got {batch_size}."
    )
  epoch, index = divmod(step, len(pool) // batch_size)
  order = _epoch_order(seed, name, epoch, len(pool))
  return pool[order[index * batch_size :][:batch_size]]


class Raw(NamedTuple):
  """A batch before its images are distorted; uint8."""

  source_BHWC: np.ndarray
  canonical_BHWC: np.ndarray


def draw_raw(problem: Problem, *, seed: int, step: int, batch_size: int) -> Raw:
  """The images of one step, from the two halves."""
  draw = functools.partial(
    draw_ids, seed=seed, step=step, batch_size=batch_size
  )
  images_NHWC = problem.train.image_NHWC
  return Raw(
    images_NHWC[draw(problem.transformed_ids, name="transformed")],
    images_NHWC[draw(problem.canonical_ids, name="canonical")],
  )


def make_batch(
  key: jax.Array,
  step: jax.Array,
  raw: Raw,
  mechanisms: tuple[mechanisms_lib.Mechanism, ...],
) -> types.Batch:
  """Distorts the sources; pure, to be jitted.

  Args:
    key: of the run.
    step: [] int32, the number of the batch.
    raw: uint8 images.
    mechanisms: M of them; which one acted is not kept.
  """
  transformed_BHWC, _ = mechanisms_lib.apply_mixture(
    rng.stream(key, "mixture", step), to_float(raw.source_BHWC), mechanisms
  )
  return types.Batch(transformed_BHWC, to_float(raw.canonical_BHWC))


def to_float(x_BHWC: jax.Array) -> jax.Array:
  """uint8 in [0, 255] to float32 in [0, 1]."""
  return x_BHWC.astype(jnp.float32) / 255.0


def _pad(images: sources.Images, size: int) -> sources.Images:
  height, width = images.image_NHWC.shape[1:3]
  if size < max(height, width):
    raise types.InputError(
      f"The image size must be at least {max(height, width)}, the size of "
      f"the data set's images; got {size}."
    )
  rows, columns = size - height, size - width
  padding = (
    (0, 0),
    (rows // 2, rows - rows // 2),
    (columns // 2, columns - columns // 2),
    (0, 0),
  )
  return sources.Images(np.pad(images.image_NHWC, padding), images.label_N)


def _generator(seed: int, name: str, *more: int) -> np.random.Generator:
  return np.random.default_rng([seed, zlib.crc32(name.encode()), *more])


@functools.lru_cache(maxsize=8)
def _epoch_order(seed: int, name: str, epoch: int, size: int) -> np.ndarray:
  return _generator(seed, name, epoch).permutation(size)
