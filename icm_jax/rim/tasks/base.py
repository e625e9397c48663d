"""The records of a sequence task, and losses that tasks share."""

from __future__ import annotations

import types as types_lib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from icm_jax import types

PARTS = ("train", "test")
# What "test" is: the test itself, or sequences on which settings are chosen.
MEASURED = ("test", "validation")


class Sequences(NamedTuple):
  """A batch of sequences.

  Attributes:
    x_BTF: float32 inputs.
    target: desired outputs: int32 classes [B, T], or float32 [B, T, O].
    weight_BT: float32 weights of steps, which sum to 1 over T; the output of a
      step with weight 0 does not count.
  """

  x_BTF: jax.Array
  target: jax.Array
  weight_BT: jax.Array


class Task(NamedTuple):
  """A task with a training variant and harder test variants.

  Attributes:
    name: name of the task.
    num_inputs: F.
    num_outputs: O, the number of outputs at each step.
    variants: names of variants; the first is used for training, the last is the
      hardest test.
    draw: `draw(key, variant, batch_size, part) -> Sequences`, to be jitted with
      all arguments but the key static; part is "train" or "test".
    loss: `loss(y_BTO, sequences) -> loss_B`, minimised in training.
    measure: `measure(apply, sequences) -> value_B`, by which models are
      compared; `apply(x_BTF) -> y_BTO` is a model.
    measure_name: description of the measure for people.
    higher_is_better: whether a higher measure is better.
    test_examples: number of sequences in the test of a variant; None if there
      are as many as are asked for.
    digests: see `decoded.Images.digests`; empty for tasks that are drawn.
    skipped: names and reasons of pictures that were left out.
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
  digests: Mapping[str, Any] = types_lib.MappingProxyType({})
  skipped: Sequence[tuple[str, str]] = ()


def cross_entropy(y_BTO: jax.Array, sequences: Sequences) -> jax.Array:
  """Cross entropy of classes in nats, mean over steps that count, [B]."""
  log_p_BTO = jax.nn.log_softmax(y_BTO)
  log_p_BT = jnp.take_along_axis(
    log_p_BTO, sequences.target[..., None], axis=-1
  )[..., 0]
  return -(log_p_BT * sequences.weight_BT).sum(axis=1)


def squared_error(y_BTO: jax.Array, sequences: Sequences) -> jax.Array:
  """Squared error summed over outputs, mean over steps that count, [B]."""
  error_BT = ((y_BTO - sequences.target) ** 2).sum(axis=-1)
  return (error_BT * sequences.weight_BT).sum(axis=1)


def only_last(num_rows: int, num_steps: int, counting: int) -> jax.Array:
  """Returns equal weights for the last `counting` steps, [B, T]."""
  counts_T = jnp.arange(num_steps) >= num_steps - counting
  return jnp.broadcast_to(counts_T / counting, (num_rows, num_steps))


def check_lengths(name: str, lengths: tuple[int, ...], least: int) -> None:
  """Checks that lengths are given, differ, and are at least `least`.

  Raises:
    InputError: lengths are missing, no whole numbers, too small, or given
      twice.
  """
  are_whole = all(isinstance(length, int) for length in lengths)
  if (
    not lengths
    or not are_whole
    or min(lengths) < least
    or len(set(lengths)) < len(lengths)
  ):
    raise types.InputError(
      f"The {name} task takes different lengths of at least {least}; got "
      f"{', '.join(map(str, lengths)) or 'none'}."
    )
