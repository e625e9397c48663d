"""Conversion of flax.linen modules to records of pure functions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from icm_jax import types

COMPUTE_DTYPES = ("float32", "bfloat16")


def from_linen(
  module: nn.Module,
  shape_HWC: tuple[int, int, int],
  *,
  compute_dtype: str = "float32",
) -> types.Network:
  """Turns a Linen module into two pure functions.

  Args:
    module: module whose `__call__` takes `(x_BHWC, *, train)`.
    shape_HWC: shape of one image, for which parameters are made.
    compute_dtype: "float32"; or "bfloat16", which is faster on accelerators.
      Parameters, statistics, gradients and outputs are float32 in both cases.

  Returns:
    A `Network`; its statistics are all collections of the module except
    `params`.

  Raises:
    InputError: the dtype is unknown.
  """
  if compute_dtype not in COMPUTE_DTYPES:
    raise types.InputError(
      f"The compute dtype must be one of {', '.join(COMPUTE_DTYPES)}; got "
      f"{compute_dtype!r}."
    )
  x_BHWC = jnp.zeros((1, *shape_HWC), jnp.float32)

  def init(key):
    variables = dict(module.init(key, x_BHWC, train=False))
    return variables.pop("params"), variables

  def cast(tree):
    return jax.tree.map(lambda a: a.astype(compute_dtype), tree)

  # Flax traces the initializers at every call, to compare shapes. An inlined
  # jit traces the module once for all programs, and leaves nothing in them.
  @functools.partial(jax.jit, static_argnames="train", inline=True)
  def apply(params, stats, x_BHWC, *, train: bool):
    # Statistics keep their dtype: running means need more digits than values.
    variables = {"params": cast(params), **stats}
    if train and stats:
      y, stats = module.apply(
        variables, cast(x_BHWC), train=True, mutable=list(stats)
      )
    else:
      y = module.apply(variables, cast(x_BHWC), train=train)
    return y.astype(jnp.float32), stats

  return types.Network(init, apply)
