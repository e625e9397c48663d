"""Batch normalisation, then ELU.

The plain form comes first, and is all that a GPU or a TPU runs. XLA's programs
for CPUs read and write images several times more often than is needed; there,
programs call `cpu/normalisation.cc` (see `primitive.Kernel`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax.kernels import primitive

EPSILON = 1e-5  # Added to variances.


def normalise_elu(
  x_BHWC: jax.Array,
  scale_C: jax.Array,
  bias_C: jax.Array,
  mean_C: jax.Array,
  variance_C: jax.Array,
) -> jax.Array:
  """ELU(scale * (x - mean) / sqrt(variance + epsilon) + bias)."""
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
  """`batch_norm_elu` by XLA, whatever the platform."""
  exact_BHWC = x_BHWC.astype(jnp.float32)
  mean_C = exact_BHWC.mean(axis=(0, 1, 2))
  variance_C = exact_BHWC.var(axis=(0, 1, 2))
  y_BHWC = normalise_elu(x_BHWC, scale_C, bias_C, mean_C, variance_C)
  return y_BHWC, *jax.lax.stop_gradient((mean_C, variance_C))


def _plain_gradient(*arrays):
  """The gradients in the arguments, from those in the results.

  Args:
    *arrays: gradients in the three results; the three arguments; the results,
      which XLA recognises as what this computes on its way.
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
  """Normalises by the batch's own statistics, then ELU.

  Args:
    x_BHWC: images, or features of them.
    scale_C: factor of what has a variance of one.
    bias_C: added to it.

  Returns:
    Features, and the mean and variance of every channel, float32, through
    which no gradient flows.
  """
  y_BHWC, mean_C, variance_C = _batch_norm(x_BHWC, scale_C, bias_C)
  return y_BHWC, mean_C, variance_C
