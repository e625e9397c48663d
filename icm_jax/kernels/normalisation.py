"""Batch normalisation, followed by ELU.

The plain form comes first; GPUs and TPUs run nothing else. XLA's programs for
CPUs read and write images several times more often than necessary, so that
programs for CPUs call `cpu/normalisation.cc` (see `primitive.Kernel`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import devices
from icm_jax.kernels import primitive

EPSILON = 1e-5  # Added to variances.


def normalise_elu(
  x_BHWC: jax.Array,
  scale_C: jax.Array,
  bias_C: jax.Array,
  mean_C: jax.Array,
  variance_C: jax.Array,
) -> jax.Array:
  """Computes ELU(scale * (x - mean) / sqrt(variance + epsilon) + bias).

  Args:
    x_BHWC: images or features; the result has their dtype.
    scale_C: scale of each channel.
    bias_C: bias of each channel.
    mean_C: float32, mean of each channel.
    variance_C: float32, variance of each channel.
  """
  dtype = x_BHWC.dtype
  factor_C = jax.lax.rsqrt(variance_C + EPSILON) * scale_C.astype(jnp.float32)
  mean_C, factor_C, bias_C = (
    a.astype(jnp.float32).reshape(1, 1, 1, -1)
    for a in (mean_C, factor_C, bias_C)
  )
  y_BHWC = (x_BHWC.astype(jnp.float32) - mean_C) * factor_C + bias_C
  return jax.nn.elu(y_BHWC).astype(dtype)


def plain_batch_norm_elu(
  x_BHWC: jax.Array, scale_C: jax.Array, bias_C: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes `batch_norm_elu` by XLA's operations on every platform."""
  exact_BHWC = x_BHWC.astype(jnp.float32)
  mean_C = exact_BHWC.mean(axis=(0, 1, 2))
  variance_C = exact_BHWC.var(axis=(0, 1, 2))
  y_BHWC = normalise_elu(x_BHWC, scale_C, bias_C, mean_C, variance_C)
  return y_BHWC, *jax.lax.stop_gradient((mean_C, variance_C))


def _divided_batch_norm_elu(x_BHWC, scale_C, bias_C):
  """Computes `batch_norm_elu` for a batch that is divided over devices."""
  exact_BHWC = x_BHWC.astype(jnp.float32)
  mean_C = devices.average(exact_BHWC.mean(axis=(0, 1, 2)), devices.DATA)
  centred_BHWC = exact_BHWC - mean_C.reshape(1, 1, 1, -1)
  variance_C = devices.average(
    jnp.mean(centred_BHWC**2, axis=(0, 1, 2)), devices.DATA
  )
  y_BHWC = normalise_elu(x_BHWC, scale_C, bias_C, mean_C, variance_C)
  return y_BHWC, *jax.lax.stop_gradient((mean_C, variance_C))


def _plain_gradient(*arrays):
  """Computes gradients with respect to the three arguments.

  Args:
    *arrays: gradients with respect to the three results; the three arguments;
      and the three results, which are not used. The function computes them
      again, and XLA merges the two computations.
  """
  gradients, arguments = arrays[:3], arrays[3:6]
  return jax.vjp(plain_batch_norm_elu, *arguments)[1](gradients)


def _attributes():
  return {"epsilon": np.float32(EPSILON)}


_forward = primitive.Kernel(
  "icm_batch_norm_values",
  plain_batch_norm_elu,
  call=primitive.Call("IcmBatchNorm", _attributes),
)
_gradient = primitive.Kernel(
  "icm_batch_norm_gradient",
  _plain_gradient,
  call=primitive.Call("IcmBatchNormGradient", _attributes),
)
_batch_norm = primitive.Kernel(
  "icm_batch_norm",
  plain_batch_norm_elu,
  call=primitive.Call("IcmBatchNorm", _attributes),
  derivative=primitive.Derivative(forward=_forward, backward=_gradient),
)


def batch_norm_elu(
  x_BHWC: jax.Array, scale_C: jax.Array, bias_C: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises by the batch's own statistics, and applies ELU.

  Args:
    x_BHWC: images or features.
    scale_C: factor of the normalised values of each channel.
    bias_C: bias of each channel.

  Returns:
    Features of the shape and dtype of `x_BHWC`; and the mean and variance of
    every channel, [C] float32, through which no gradient flows.
  """
  if devices.number(devices.DATA) > 1:
    return _divided_batch_norm_elu(x_BHWC, scale_C, bias_C)
  y_BHWC, mean_C, variance_C = _batch_norm(x_BHWC, scale_C, bias_C)
  return y_BHWC, mean_C, variance_C
