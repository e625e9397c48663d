"""The leading expert axis: how it is made, mapped over and selected from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from icm_jax import kernels, types

MODES = ("auto", "unroll", "vmap")


def check(mode: str) -> None:
  """Refuses an unknown mode.

  Raises:
    InputError: names those that are known.
  """
  if mode not in MODES:
    raise types.InputError(
      f"The expert map must be one of {', '.join(MODES)}; got {mode!r}."
    )


def resolve(
  mode: str, fn: Callable[..., Any], in_axes: tuple[int | None, ...], *args: Any
) -> str:
  """Turns "auto" into the mode that suits a function and the backend.

  On CPU, XLA runs the gradient of a vmapped convolution (a grouped one) tens of
  times slower than a Python loop, and that of one convolution over many images
  about twice slower than that of several over few. So "auto" is "unroll" where
  a function has such convolutions on CPU; elsewhere, and for the compiled ones
  of `icm_jax.kernels`, it is "vmap".

  Args:
    mode: as the user chose it.
    fn: what is to be mapped.
    in_axes: as for `map_leading`.
    *args: arguments of the mapped function.

  Raises:
    InputError: the mode is unknown.
  """
  check(mode)
  if mode != "auto":
    return mode
  if jax.default_backend() != "cpu":
    return "vmap"
  one = [
    arg
    if axis is None
    else jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), arg)
    for arg, axis in zip(args, in_axes, strict=True)
  ]
  has_convolution = _has_convolution(jax.make_jaxpr(fn)(*one).jaxpr)
  return "unroll" if has_convolution else "vmap"


def _has_convolution(jaxpr: Any) -> bool:
  for equation in jaxpr.eqns:
    if equation.primitive.name == "conv_general_dilated":
      return True
    if kernels.is_kernel(equation.primitive) and not kernels.is_compiled():
      return True
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns") and _has_convolution(inner):
        return True
  return False


def map_leading(
  fn: Callable[..., Any], in_axes: tuple[int | None, ...], *, mode: str
) -> Callable[..., Any]:
  """Maps `fn` over leading axes, as `jax.vmap` does, in one of two forms.

  Args:
    fn: function of positional arguments.
    in_axes: 0 for an argument that is mapped, None for one that is shared.
    mode: "vmap"; "unroll", a Python loop; or "auto", see `resolve`.

  Returns:
    A function of the same arguments; outputs have a new leading axis.
  """

  def mapped(*args):
    if resolve(mode, fn, in_axes, *args) == "vmap":
      return jax.vmap(fn, in_axes=in_axes)(*args)
    (size,) = {
      leaf.shape[0]
      for arg, axis in zip(args, in_axes, strict=True)
      if axis is not None
      for leaf in jax.tree.leaves(arg)
    }

    def call(index):
      return fn(
        *(
          arg if axis is None else jax.tree.map(lambda a: a[index], arg)
          for arg, axis in zip(args, in_axes, strict=True)
        )
      )

    outs = [call(index) for index in range(size)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)

  return mapped


def select(
  pred_E: jax.Array, on_true_E: types.PyTree, on_false_E: types.PyTree
) -> types.PyTree:
  """Takes, expert by expert, one tree or the other; both [E, ...]."""

  def pick(a, b):
    return jnp.where(pred_E.reshape(-1, *[1] * (a.ndim - 1)), a, b)

  return jax.tree.map(pick, on_true_E, on_false_E)
