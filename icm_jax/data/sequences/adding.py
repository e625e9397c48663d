"""Adding: the sum of two marked numbers in a long row of numbers.

After Hochreiter & Schmidhuber, 1997, as in Sec. 4.1 of the RIM paper.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax.data.sequences import task


def make_adding(*, lengths: tuple[int, ...]) -> task.Task:
  """Numbers in [0, 1], one of each half of which is marked.

  Only the output at the last step counts. One that says 1 every time has an
  error of 1 / 6.

  Args:
    lengths: of the sequences: first the one that is trained on.

  Raises:
    InputError: a length is out of range.
  """
  task.check_lengths("adding", lengths, 2)
  names = {f"length {n}": n for n in lengths}

  def draw(key, variant, batch_size, part):
    del part  # There are so many that no two are alike.
    length = names[variant]
    value_key, first_key, second_key = jax.random.split(key, 3)
    value_BT = jax.random.uniform(value_key, (batch_size, length))
    first_B = jax.random.randint(first_key, (batch_size,), 0, length // 2)
    second_B = jax.random.randint(
      second_key, (batch_size,), length // 2, length
    )
    marked_BT = jax.nn.one_hot(first_B, length)
    marked_BT += jax.nn.one_hot(second_B, length)
    sum_B = (value_BT * marked_BT).sum(axis=1)
    return task.Sequences(
      jnp.stack([value_BT, marked_BT], axis=-1),
      jnp.broadcast_to(sum_B[:, None, None], (batch_size, length, 1)),
      task.only_last(batch_size, length, 1),
    )

  return task.Task(
    name="adding",
    num_inputs=2,
    num_outputs=1,
    variants=tuple(names),
    draw=draw,
    loss=task.squared_error,
    measure=lambda apply, s: task.squared_error(apply(s.x_BTF), s),
    measure_name="squared error",
    higher_is_better=False,
  )
