"""What a task is: sequences by key, a loss, and a number to compare by."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from icm_jax import types

PARTS = ("train", "test")


class Sequences(NamedTuple):
  """A batch.

  Attributes:
    x_BTF: float32, what a model reads, step by step.
    target: what it should say: int32 [B, T] classes, or float32 [B, T, O].
    weight_BT: float32, the steps whose output counts; sums to 1 over T.
  """

  x_BTF: jax.Array
  target: jax.Array
  weight_BT: jax.Array


class Task(NamedTuple):
  """A task, with variants from the one that is trained on to the hardest.

  Attributes:
    name: of the task.
    num_inputs: F.
    num_outputs: O, what a model says at each step.
    variants: names; the first is trained on, the last one is the hardest test.
    draw: `draw(key, variant, batch_size, part) -> Sequences`, to be jitted with
      all but the key static; part is "train" or "test".
    loss: `loss(y_BTO, sequences) -> loss_B`, to be trained by.
    measure: `measure(apply, sequences) -> value_B`, to be compared by, where
      `apply` is a model: `apply(x_BTF) -> y_BTO`.
    measure_name: of the measure, for people.
    higher_is_better: of the measure.
    test_examples: the most that a variant's test has; None is any number.
  """

  name: str
  num_inputs: int
  num_outputs: int
  variants: tuple[str, ...]
  draw: Callable[[jax.Array, str, int, str], Sequences]
  loss: Callable[[jax.Array, Sequences], jax.Array]
  measure: Callable[..., jax.Array]
  measure_name: str
  higher_is_better: bool
  test_examples: int | None = None


def cross_entropy(y_BTO: jax.Array, sequences: Sequences) -> jax.Array:
  """Cross entropy of classes, nats, mean over the steps that count, [B]."""
  log_p_BTO = jax.nn.log_softmax(y_BTO)
  log_p_BT = jnp.take_along_axis(
    log_p_BTO, sequences.target[..., None], axis=-1
  )[..., 0]
  return -(log_p_BT * sequences.weight_BT).sum(axis=1)


def squared_error(y_BTO: jax.Array, sequences: Sequences) -> jax.Array:
  """Squared error, summed over outputs, of the steps that count, [B]."""
  error_BT = ((y_BTO - sequences.target) ** 2).sum(axis=-1)
  return (error_BT * sequences.weight_BT).sum(axis=1)


def only_last(num_rows: int, num_steps: int, counting: int) -> jax.Array:
  """Weights of the last steps, [B, T]."""
  counts_T = jnp.arange(num_steps) >= num_steps - counting
  return jnp.broadcast_to(counts_T / counting, (num_rows, num_steps))


def check_lengths(name: str, lengths: tuple[int, ...], least: int) -> None:
  """Checks that there are lengths, and that all are long enough.

  Raises:
    InputError: they are not.
  """
  if not lengths or min(lengths) < least or len(set(lengths)) < len(lengths):
    raise types.InputError(
      f"The {name} task takes different lengths of at least {least}; got "
      f"{', '.join(map(str, lengths)) or 'none'}."
    )
