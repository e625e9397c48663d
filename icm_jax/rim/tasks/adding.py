"""Adding: the sum of two marked numbers in a long sequence of numbers.

The task is that of Hochreiter & Schmidhuber, 1997, as used in Sec. 4.1 of the
RIM paper (arXiv 1909.10893).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax.rim.tasks import base


def make_adding(*, lengths: tuple[int, ...]) -> base.Task:
  """Makes sequences of numbers in [0, 1] with one marked number in each half.

  Only the output at the last step counts. The constant output 1 has a squared
  error of 1 / 6.

  Args:
    lengths: lengths of sequences; the first is used for training.

  Raises:
    InputError: a length is out of range.
  """
  base.check_lengths("adding", lengths, 2)
  names = {f"length {n}": n for n in lengths}

  def draw(key, variant, batch_size, part):
    del part  # Sequences are drawn anew, so both parts use one distribution.
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
    return base.Sequences(
      jnp.stack([value_BT, marked_BT], axis=-1),
      jnp.broadcast_to(sum_B[:, None, None], (batch_size, length, 1)),
      base.only_last(batch_size, length, 1),
    )

  return base.Task(
    name="adding",
    num_inputs=2,
    num_outputs=1,
    variants=tuple(names),
    draw=draw,
    loss=base.squared_error,
    measure=lambda apply, s: base.squared_error(apply(s.x_BTF), s),
    measure_name="squared error",
    higher_is_better=False,
  )
