"""Attention of the members of a group to all of them, some members only.

On a CPU it runs in `attention.cc`, if that was compiled when the package was
installed: groups are small, and XLA's products of small matrices slow there.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from icm_jax.models import compiled


def attend(
  query_RBAD: jax.Array,
  key_RBAD: jax.Array,
  value_RBAE: jax.Array,
  factor_RBAR: jax.Array,
  active_RB: jax.Array,
) -> jax.Array:
  """What active members hear: softmax(query . key / sqrt(D)) * factor . value.

  Where it is compiled, it can be differentiated once, in reverse.

  Args:
    query_RBAD: of R members in B groups, A heads.
    key_RBAD: the same.
    value_RBAE: the same, perhaps of another size.
    factor_RBAR: of each weight, as of dropout; no gradient flows into it.
    active_RB: bool.

  Returns:
    [R, B, A, E]; of others it is not to be used.
  """
  arrays = query_RBAD, key_RBAD, value_RBAE, factor_RBAR
  if compiled.takes(*arrays):
    return _compiled(*arrays, active_RB)
  logit_RBAR = jnp.einsum("rbad,sbad->rbas", query_RBAD, key_RBAD)
  weight_RBAR = jax.nn.softmax(logit_RBAR / math.sqrt(query_RBAD.shape[-1]))
  weight_RBAR *= jax.lax.stop_gradient(factor_RBAR)
  return jnp.einsum("rbas,sbae->rbae", weight_RBAR, value_RBAE)


@jax.custom_vjp
def _compiled(*arrays):
  query_RBAD, _, value_RBAE, _, _ = arrays
  shape = (*query_RBAD.shape[:3], value_RBAE.shape[-1])
  return _call("IcmAttention", [shape], arrays)[0]


def _backward(arrays, gradient_RBAE):
  shapes = [array.shape for array in arrays[:3]]
  gradients = _call("IcmAttentionGradient", shapes, (gradient_RBAE, *arrays))
  return (*gradients, None, None)


_compiled.defvjp(lambda *arrays: (_compiled(*arrays), arrays), _backward)


def _call(name, shapes, arrays):
  """A call; what vmap maps becomes more groups."""

  @jax.custom_batching.custom_vmap
  def mapped(*arrays):
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.ffi.ffi_call(name, results)(*arrays)

  @mapped.def_vmap
  def _(axis_size, is_mapped, *arrays):
    def join(array, has_axis):
      if not has_axis:
        array = jnp.broadcast_to(array[None], (axis_size, *array.shape))
      array = array.swapaxes(0, 1)
      return array.reshape(len(array), -1, *array.shape[3:])

    def split(array):
      shape = (len(array), axis_size, -1, *array.shape[2:])
      return array.reshape(shape).swapaxes(0, 1)

    joined = map(join, arrays, is_mapped)
    more = [(r, axis_size * b, *rest) for r, b, *rest in shapes]
    results = _call(name, more, tuple(joined))
    return [split(result) for result in results], [True] * len(shapes)

  return mapped(*arrays)
