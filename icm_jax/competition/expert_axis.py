"""The leading expert axis: how it is made, mapped over and selected from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from icm_jax import types

MODES = ("auto", "unroll", "vmap")


def resolve(mode: str) -> str:
  """Turns "auto" into the mode that suits the default backend.

  Raises:
    InputError: the mode is unknown.
  """
  if mode not in MODES:
    raise types.InputError(
      f"The expert map must be one of {', '.join(MODES)}; got {mode!r}."
    )
  if mode == "auto":
    return "unroll" if jax.default_backend() == "cpu" else "vmap"
  return mode


def map_leading(
  fn: Callable[..., Any], in_axes: tuple[int | None, ...], *, mode: str
) -> Callable[..., Any]:
  """Maps `fn` over leading axes, as `jax.vmap` does, in one of two forms.

  Args:
    fn: function of positional arguments.
    in_axes: 0 for an argument that is mapped, None for one that is shared.
    mode: "vmap" for accelerators; "unroll" for CPU, where XLA runs the gradient
      of a vmapped convolution (a grouped one) tens of times slower than a
      Python loop, and that of one convolution over many images about twice
      slower than that of several over few.

  Returns:
    A function of the same arguments; outputs have a new leading axis.
  """
  if mode == "vmap":
    return jax.vmap(fn, in_axes=in_axes)

  def unrolled(*args):
    sizes = {
      leaf.shape[0]
      for arg, axis in zip(args, in_axes, strict=True)
      if axis is not None
      for leaf in jax.tree.leaves(arg)
    }
    (size,) = sizes

    def call(index):
      return fn(
        *(
          arg if axis is None else jax.tree.map(lambda a: a[index], arg)
          for arg, axis in zip(args, in_axes, strict=True)
        )
      )

    outs = [call(index) for index in range(size)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)

  return unrolled


def select(
  pred_E: jax.Array, on_true_E: types.PyTree, on_false_E: types.PyTree
) -> types.PyTree:
  """Takes, expert by expert, one tree or the other; both [E, ...]."""

  def pick(a, b):
    return jnp.where(pred_E.reshape(-1, *[1] * (a.ndim - 1)), a, b)

  return jax.tree.map(pick, on_true_E, on_false_E)
