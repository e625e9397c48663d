"""Sequential MNIST: a digit, pixel by pixel, in more pixels than in training.

After Sec. 4.2 of the RIM paper: scaled to the nearest pixel, then binarised.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import types
from icm_jax.data import problem as problem_lib
from icm_jax.data.sequences import task


def make_digits(
  problem: problem_lib.Problem, *, sizes: tuple[int, ...]
) -> task.Task:
  """Rows of pixels, 0 or 1, of images; the class is asked for at the last one.

  Args:
    problem: square images of one channel, with labels.
    sizes: pixels a side: first the one that is trained on.

  Raises:
    InputError: a size is out of range, or the images do not suit.
  """
  task.check_lengths("digits", sizes, 1)
  height, width, channels = problem.shape_HWC
  if problem.images.label_N is None or height != width or channels != 1:
    raise types.InputError(
      "The digits task takes square images of one channel with labels; those "
      f"of {problem.name} are {height}x{width}x{channels}"
      f"{' without labels' if problem.images.label_N is None else ''}."
    )
  names = {f"{size}x{size}": size for size in sizes}
  ids = {"train": problem.train_ids, "test": problem.test_ids}
  label_N = np.asarray(problem.images.label_N, np.int32)
  image_NHW = problem.images.image_NHWC[..., 0]
  pixels = {
    (variant, part): binarise(scale(image_NHW[ids[part]], size))
    for variant, size in names.items()
    for part in task.PARTS
    if part == "test" or size == sizes[0]
  }

  def draw(key, variant, batch_size, part):
    x_NT = jnp.asarray(pixels[variant, part])
    if part == "train":
      index_B = jax.random.randint(key, (batch_size,), 0, len(x_NT))
    else:  # Each image at most once.
      index_B = jax.random.permutation(key, len(x_NT))[:batch_size]
    x_BT = x_NT[index_B]
    label_B = jnp.asarray(label_N[ids[part]])[index_B]
    return task.Sequences(
      x_BT.astype(jnp.float32)[..., None],
      jnp.broadcast_to(label_B[:, None], x_BT.shape),
      task.only_last(*x_BT.shape, 1),
    )

  return task.Task(
    name="seqmnist",
    num_inputs=1,
    num_outputs=int(label_N.max()) + 1,
    variants=tuple(names),
    draw=draw,
    loss=task.cross_entropy,
    measure=_correct,
    measure_name="accuracy",
    higher_is_better=True,
    test_examples=len(problem.test_ids),
  )


def _correct(apply, sequences):
  """Whether the answer at the last step is right, 0 or 1."""
  answer_B = apply(sequences.x_BTF)[:, -1].argmax(axis=-1)
  return (answer_B == sequences.target[:, -1]).astype(jnp.float32)


def scale(image_NHW: np.ndarray, size: int) -> np.ndarray:
  """Nearest pixels, by their centres, [N, size, size]."""
  height, width = image_NHW.shape[1:]
  rows, columns = (
    ((np.arange(size) + 0.5) * old / size).astype(int)
    for old in (height, width)
  )
  return image_NHW[:, rows][:, :, columns]


def binarise(image_NHW: np.ndarray) -> np.ndarray:
  """uint8 images as rows of 0 and 1, [N, T] uint8; half of white is 1."""
  return (image_NHW > 127).reshape(len(image_NHW), -1).astype(np.uint8)
