"""Copying: say ten digits again, after a pause longer than those in training.

After Hochreiter & Schmidhuber, 1997, as in Sec. 4.1 of the RIM paper.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax.data.sequences import task

# Input symbols: 0 to 7 are digits, 8 asks for one of them. A blank is none.
_DIGITS = 8
_ASK = 8
_BLANK = -1


def make_copying(*, digits: int, blanks: tuple[int, ...]) -> task.Task:
  """Digits, blanks, and as many questions as there were digits.

  Only answers to the questions count. A symbol is one of 9 inputs that is 1;
  while there is a blank, all are 0.

  Args:
    digits: how many there are to copy.
    blanks: lengths of the pause: first the one that is trained on.

  Raises:
    InputError: a length is out of range.
  """
  task.check_lengths("copying", (digits,), 1)
  task.check_lengths("copying", blanks, 0)
  lengths = {f"{n} blanks": n for n in blanks}

  def draw(key, variant, batch_size, part):
    del part  # There are so many that no two are alike.
    digit_BT = jax.random.randint(key, (batch_size, digits), 0, _DIGITS)
    pause = lengths[variant]
    blank_BT = jnp.full((batch_size, pause), _BLANK, jnp.int32)
    ask_BT = jnp.full((batch_size, digits), _ASK, jnp.int32)
    symbol_BT = jnp.concatenate([digit_BT, blank_BT, ask_BT], axis=1)
    ignored_BT = jnp.zeros((batch_size, digits + pause), jnp.int32)
    return task.Sequences(
      jax.nn.one_hot(symbol_BT, _ASK + 1),
      jnp.concatenate([ignored_BT, digit_BT], axis=1),
      task.only_last(batch_size, 2 * digits + pause, digits),
    )

  return task.Task(
    name="copying",
    num_inputs=_ASK + 1,
    num_outputs=_DIGITS,
    variants=tuple(lengths),
    draw=draw,
    loss=task.cross_entropy,
    measure=lambda apply, s: task.cross_entropy(apply(s.x_BTF), s),
    measure_name="cross entropy, nats",
    higher_is_better=False,
  )
