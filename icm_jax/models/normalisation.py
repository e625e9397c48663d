"""Normalisation before an ELU, by name."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from icm_jax import types
from icm_jax.kernels import normalisation

NORMS = ("batch", "group", "none")

# Weight of the old running statistics in the new ones.
_MOMENTUM = 0.9


class NormElu(nn.Module):
  """Normalisation by its name, followed by ELU.

  Attributes:
    kind: "batch", "group" (groups of 8 channels) or "none".

  Raises:
    InputError: the name is unknown.
  """

  kind: str

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    if self.kind == "none":
      return nn.elu(x_BHWC)
    if self.kind == "batch":
      return BatchNormElu()(x_BHWC, train=train)
    if self.kind == "group":
      channels = x_BHWC.shape[-1]
      return nn.elu(nn.GroupNorm(num_groups=max(1, channels // 8))(x_BHWC))
    raise types.InputError(
      f"Unknown normalisation {self.kind!r}; known: {', '.join(NORMS)}."
    )


class BatchNormElu(nn.Module):
  """Batch normalisation with running statistics, followed by ELU.

  Parameters and statistics have the names and meanings of those of
  `nn.BatchNorm`.
  """

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    shape = x_BHWC.shape[-1:]
    scale_C = self.param("scale", nn.initializers.ones, shape, jnp.float32)
    bias_C = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
    variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
    if not train:
      return normalisation.normalise_elu(
        x_BHWC, scale_C, bias_C, mean.value, variance.value
      )
    y_BHWC, mean_C, variance_C = normalisation.batch_norm_elu(
      x_BHWC, scale_C, bias_C
    )
    if not self.is_initializing():
      for running, value_C in ((mean, mean_C), (variance, variance_C)):
        running.value = _MOMENTUM * running.value + (1 - _MOMENTUM) * value_C
    return y_BHWC
