"""Sequential MNIST: digits read pixel by pixel, tested at higher resolutions.

As in Sec. 4.2 of the RIM paper (arXiv 1909.10893), images are scaled by nearest
neighbours and then binarised.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import types
from icm_jax.data import problem as problem_lib
from icm_jax.rim.tasks import base


def make_digits(
  problem: problem_lib.Problem,
  *,
  sizes: tuple[int, ...],
  measured: str = "test",
) -> base.Task:
  """Makes sequences of pixels, 0 or 1, whose last output is the class.

  Args:
    problem: square images with one channel and labels.
    sizes: pixels per side of an image; the first is used for training.
    measured: one of `base.MEASURED`. "validation" trains on nine tenths of the
      training digits and makes the last tenth the test.

  Raises:
    InputError: a size is out of range, or the images do not suit.
  """
  base.check_lengths("digits", sizes, 1)
  height, width, channels = problem.shape_HWC
  if problem.images.label_N is None or height != width or channels != 1:
    raise types.InputError(
      "The digits task takes square images with one channel and labels; those "
      f"of {problem.name} are {height}x{width}x{channels}"
      f"{' without labels' if problem.images.label_N is None else ''}."
    )
  names = {f"{size}x{size}": size for size in sizes}
  ids = {"train": problem.train_ids, "test": problem.test_ids}
  if measured == "validation":
    order = np.random.default_rng(0).permutation(problem.train_ids)
    held_out = math.ceil(len(order) / 10)
    ids = {"train": order[held_out:], "test": order[:held_out]}
  label_N = np.asarray(problem.images.label_N, np.int32)
  image_NHW = problem.images.image_NHWC[..., 0]
  pixels = {
    (variant, part): binarise(scale(image_NHW[ids[part]], size))
    for variant, size in names.items()
    for part in base.PARTS
    if part == "test" or size == sizes[0]
  }

  def draw(key, variant, batch_size, part):
    x_NT = jnp.asarray(pixels[variant, part])
    if part == "train":
      index_B = jax.random.randint(key, (batch_size,), 0, len(x_NT))
    else:  # A test contains each image at most once.
      index_B = jax.random.permutation(key, len(x_NT))[:batch_size]
    x_BT = x_NT[index_B]
    label_B = jnp.asarray(label_N[ids[part]])[index_B]
    return base.Sequences(
      x_BT.astype(jnp.float32)[..., None],
      jnp.broadcast_to(label_B[:, None], x_BT.shape),
      base.only_last(*x_BT.shape, 1),
    )

  return base.Task(
    name="seqmnist",
    num_inputs=1,
    num_outputs=int(label_N.max()) + 1,
    variants=tuple(names),
    draw=draw,
    loss=base.cross_entropy,
    measure=_correct,
    measure_name="accuracy",
    higher_is_better=True,
    test_examples=len(ids["test"]),
    digests=problem.images.digests,
    skipped=problem.skipped,
  )


def _correct(apply, sequences):
  """Returns 1 where the output at the last step is right, else 0; [B]."""
  answer_B = apply(sequences.x_BTF)[:, -1].argmax(axis=-1)
  return (answer_B == sequences.target[:, -1]).astype(jnp.float32)


def scale(image_NHW: np.ndarray, size: int) -> np.ndarray:
  """Scales images by nearest neighbours of pixel centres, [N, size, size]."""
  height, width = image_NHW.shape[1:]
  rows, columns = (
    ((np.arange(size) + 0.5) * old / size).astype(int)
    for old in (height, width)
  )
  return image_NHW[:, rows][:, :, columns]


def binarise(image_NHW: np.ndarray) -> np.ndarray:
  """Maps uint8 images to [N, T] uint8: 1 for pixels above 127, else 0."""
  return (image_NHW > 127).reshape(len(image_NHW), -1).astype(np.uint8)
