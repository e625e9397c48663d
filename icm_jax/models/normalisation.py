"""Normalisation before an ELU, by name.

Batch normalisation runs in `normalisation.cc` on a CPU, if that was compiled
when the package was installed: XLA's, and above all its gradient, is slow
there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from icm_jax import types
from icm_jax.models import compiled

NORMS = ("batch", "group", "none")

_EPSILON = 1e-5
# Of what running statistics were, in what they become.
_MOMENTUM = 0.9


class NormElu(nn.Module):
  """Normalisation by name, then ELU: "batch", "group" (of 8 channels), "none".

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
  """Batch normalisation with running statistics, then ELU.

  Parameters and statistics have the names and meanings of `nn.BatchNorm`.
  """

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    shape = x_BHWC.shape[-1:]
    scale_C = self.param("scale", nn.initializers.ones, shape)
    bias_C = self.param("bias", nn.initializers.zeros, shape)
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    variance = self.variable("batch_stats", "var", jnp.ones, shape)
    if not train:
      return _normalise(x_BHWC, scale_C, bias_C, mean.value, variance.value)
    y_BHWC, mean_C, variance_C = batch_norm_elu(x_BHWC, scale_C, bias_C)
    if not self.is_initializing():
      for running, value_C in ((mean, mean_C), (variance, variance_C)):
        running.value = _MOMENTUM * running.value + (1 - _MOMENTUM) * value_C
    return y_BHWC


def batch_norm_elu(
  x_BHWC: jax.Array, scale_C: jax.Array, bias_C: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises by the batch's own statistics, then ELU.

  Compiled for float32 on a CPU, where it can be differentiated once, in
  reverse; else by XLA.

  Args:
    x_BHWC: images, or features of them.
    scale_C: of what has a variance of one.
    bias_C: added to it.

  Returns:
    Features, and the mean and variance of every channel, float32, through
    which no gradient flows.
  """
  if compiled.takes(x_BHWC, scale_C, bias_C):
    return _compiled(x_BHWC, scale_C, bias_C)
  return plain_batch_norm_elu(x_BHWC, scale_C, bias_C)


def plain_batch_norm_elu(
  x_BHWC: jax.Array, scale_C: jax.Array, bias_C: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The same by XLA, whatever the machine."""
  exact_BHWC = x_BHWC.astype(jnp.float32)
  mean_C = exact_BHWC.mean(axis=(0, 1, 2))
  variance_C = exact_BHWC.var(axis=(0, 1, 2))
  y_BHWC = _normalise(x_BHWC, scale_C, bias_C, mean_C, variance_C)
  return y_BHWC, *jax.lax.stop_gradient((mean_C, variance_C))


def _normalise(x_BHWC, scale_C, bias_C, mean_C, variance_C):
  dtype = x_BHWC.dtype
  factor_C = jax.lax.rsqrt(variance_C + _EPSILON) * scale_C
  mean_C, factor_C, bias_C = (
    a.reshape(1, 1, 1, -1) for a in (mean_C, factor_C, bias_C)
  )
  y_BHWC = (x_BHWC.astype(jnp.float32) - mean_C) * factor_C + bias_C
  return nn.elu(y_BHWC).astype(dtype)


@jax.custom_vjp
def _compiled(x_BHWC, scale_C, bias_C):
  shapes = [x_BHWC.shape, scale_C.shape, scale_C.shape]
  return tuple(_call("IcmBatchNorm", shapes, x_BHWC, scale_C, bias_C))


def _forward(x_BHWC, scale_C, bias_C):
  y_BHWC, mean_C, variance_C = _compiled(x_BHWC, scale_C, bias_C)
  residuals = x_BHWC, y_BHWC, scale_C, mean_C, variance_C
  return (y_BHWC, mean_C, variance_C), residuals


def _backward(residuals, gradients):
  x_BHWC, _, scale_C, _, _ = residuals
  shapes = [x_BHWC.shape, scale_C.shape, scale_C.shape]
  return tuple(_call("IcmBatchNormGradient", shapes, gradients[0], *residuals))


_compiled.defvjp(_forward, _backward)


def _call(name, shapes, *arrays):
  results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  call = jax.ffi.ffi_call(name, results, vmap_method="expand_dims")
  return call(*arrays, epsilon=np.float32(_EPSILON))
