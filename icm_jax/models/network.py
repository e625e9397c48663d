"""The seam between flax.linen and the rest of the library."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from icm_jax import types

NORMS = ("batch", "group", "none")


def from_linen(
  module: nn.Module, shape_HWC: tuple[int, int, int]
) -> types.Network:
  """Turns a Linen module into two pure functions.

  Args:
    module: its `__call__` takes `(x_BHWC, *, train)`.
    shape_HWC: shape of one image; parameters are made for it.

  Returns:
    A `Network` whose params and stats are plain dicts of arrays.
  """
  x_BHWC = jnp.zeros((1, *shape_HWC))

  def init(key):
    variables = dict(module.init(key, x_BHWC, train=False))
    return variables.pop("params"), variables

  def apply(params, stats, x_BHWC, *, train: bool):
    variables = {"params": params, **stats}
    if not (train and stats):
      return module.apply(variables, x_BHWC, train=train), stats
    return module.apply(variables, x_BHWC, train=True, mutable=list(stats))

  return types.Network(init, apply)


class Norm(nn.Module):
  """Normalisation chosen by name: "batch", "group" (of 8 channels) or "none".

  Raises:
    InputError: the name is unknown.
  """

  kind: str

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    if self.kind == "none":
      return x_BHWC
    if self.kind == "batch":
      return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x_BHWC)
    if self.kind == "group":
      channels = x_BHWC.shape[-1]
      return nn.GroupNorm(num_groups=max(1, channels // 8))(x_BHWC)
    raise types.InputError(
      f"Unknown normalisation {self.kind!r}; known: {', '.join(NORMS)}."
    )
