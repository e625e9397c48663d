"""Copying: repeat digits after a pause, longer in tests than in training.

The task is that of Hochreiter & Schmidhuber, 1997, as used in Sec. 4.1 of the
RIM paper (arXiv 1909.10893).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax.rim.tasks import base

# Input symbols 0 to 7 are digits; 8 asks for one of them. `jax.nn.one_hot` maps
# -1, the blank, to zeros.
_DIGITS = 8
_ASK = 8
_BLANK = -1


def make_copying(*, digits: int, blanks: tuple[int, ...]) -> base.Task:
  """Makes sequences of digits, then blanks, then one question per digit.

  Only outputs at the questions count. Symbols are one-hot vectors of 9 inputs;
  a blank is a vector of zeros.

  Args:
    digits: number of digits to copy.
    blanks: lengths of the pause; the first is used for training.

  Raises:
    InputError: a length is out of range.
  """
  base.check_lengths("copying", (digits,), 1)
  base.check_lengths("copying", blanks, 0)
  lengths = {f"{n} blanks": n for n in blanks}

  def draw(key, variant, batch_size, part):
    del part  # Sequences are drawn anew, so both parts use one distribution.
    digit_BT = jax.random.randint(key, (batch_size, digits), 0, _DIGITS)
    pause = lengths[variant]
    blank_BT = jnp.full((batch_size, pause), _BLANK, jnp.int32)
    ask_BT = jnp.full((batch_size, digits), _ASK, jnp.int32)
    symbol_BT = jnp.concatenate([digit_BT, blank_BT, ask_BT], axis=1)
    ignored_BT = jnp.zeros((batch_size, digits + pause), jnp.int32)
    return base.Sequences(
      jax.nn.one_hot(symbol_BT, _ASK + 1),
      jnp.concatenate([ignored_BT, digit_BT], axis=1),
      base.only_last(batch_size, 2 * digits + pause, digits),
    )

  return base.Task(
    name="copying",
    num_inputs=_ASK + 1,
    num_outputs=_DIGITS,
    variants=tuple(lengths),
    draw=draw,
    loss=base.cross_entropy,
    measure=lambda apply, s: base.cross_entropy(apply(s.x_BTF), s),
    measure_name="cross entropy, nats",
    higher_is_better=False,
  )
