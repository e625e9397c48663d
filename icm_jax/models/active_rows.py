"""Products of rows by a matrix of each group's own, of active rows only.

On a CPU `active_rows.cc` reads such rows and their matrix where they stand, if
it was compiled when the package was installed. Elsewhere the active rows are
gathered for XLA's `ragged_dot`. For that their number must be known; which ones
they are, and how many of a group, need not.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.models import compiled


def multiply(
  x_RBD: jax.Array, kernel_RDE: jax.Array, active_RB: jax.Array, count: int
) -> jax.Array:
  """Active rows times their group's matrix.

  It can be differentiated once, in reverse. Under `jax.vmap`, what is mapped
  becomes more groups.

  Args:
    x_RBD: rows of R groups, floating point.
    kernel_RDE: matrices of the same dtype.
    active_RB: bool.
    count: how many are true. Where there are others, results are not defined.

  Returns:
    [R, B, E]; rows that are not active are zeros.

  Raises:
    InputError: shapes do not fit together.
  """
  shape = (*x_RBD.shape, kernel_RDE.shape[-1])
  if (
    len(shape) != 4
    or kernel_RDE.shape != (shape[0], *shape[2:])
    or active_RB.shape != shape[:2]
  ):
    raise types.InputError(
      "Expected rows [R, B, D], matrices [R, D, E] and active rows [R, B]; got "
      f"{x_RBD.shape}, {kernel_RDE.shape} and {active_RB.shape}."
    )
  return _multiply(x_RBD, kernel_RDE, active_RB, count)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _multiply(x_RBD, kernel_RDE, active_RB, count):
  return _rows(x_RBD, kernel_RDE, active_RB, count, transposed=False)


def _backward(count, residuals, dy_RBE):
  x_RBD, kernel_RDE, active_RB = residuals
  dx_RBD = _rows(dy_RBE, kernel_RDE, active_RB, count, transposed=True)
  return dx_RBD, _outer(x_RBD, dy_RBE, active_RB, count), None


_multiply.defvjp(
  lambda x, kernel, active, count: (
    _multiply(x, kernel, active, count),
    (x, kernel, active),
  ),
  _backward,
)


def _rows(x_RBD, kernel, active_RB, count, *, transposed):
  """Rows times matrices or, transposed, matrices' transposes."""

  def one(count, x_RBD, kernel, active_RB):
    features = kernel.shape[1 if transposed else 2]
    shape = (*active_RB.shape, features)
    if compiled.takes(x_RBD, kernel):
      name = "IcmMultiplyTransposed" if transposed else "IcmMultiply"
      return _call(name, shape)(x_RBD, kernel, active_RB)
    kernel = kernel.swapaxes(1, 2) if transposed else kernel
    index_N, size_R = _index(active_RB, count)
    x_ND = _take(x_RBD, index_N)
    y_NE = jax.lax.ragged_dot(x_ND, kernel, size_R)
    y_NE = (
      jnp.zeros((active_RB.size, features), y_NE.dtype)
      .at[index_N]
      .set(y_NE, unique_indices=True, indices_are_sorted=True)
    )
    return y_NE.reshape(shape)

  return _with_more_groups(one, count)(x_RBD, kernel, active_RB)


def _outer(x_RBD, y_RBE, active_RB, count):
  """Sums over active rows of their outer products, [R, D, E]."""

  def one(count, x_RBD, y_RBE, active_RB):
    shape = (len(x_RBD), x_RBD.shape[2], y_RBE.shape[2])
    if compiled.takes(x_RBD, y_RBE):
      return _call("IcmOuterProducts", shape)(x_RBD, y_RBE, active_RB)
    index_N, size_R = _index(active_RB, count)
    return jax.lax.ragged_dot_general(
      _take(x_RBD, index_N), _take(y_RBE, index_N), size_R, _RAGGED_ROWS
    )

  return _with_more_groups(one, count)(x_RBD, y_RBE, active_RB)


_RAGGED_ROWS = jax.lax.RaggedDotDimensionNumbers(
  dot_dimension_numbers=(((0,), (0,)), ((), ())),
  lhs_ragged_dimensions=[0],
  rhs_group_dimensions=[],
)


def _with_more_groups(function, count):
  """A function of `count` and arrays [R, ...]; vmap's axis joins the groups."""

  @jax.custom_batching.custom_vmap
  def mapped(*arrays):
    return function(count, *arrays)

  @mapped.def_vmap
  def _(axis_size, is_mapped, *arrays):
    joined = []
    for array, has_axis in zip(arrays, is_mapped, strict=True):
      if not has_axis:
        array = jnp.broadcast_to(array[None], (axis_size, *array.shape))
      joined.append(array.reshape(-1, *array.shape[2:]))
    result = _with_more_groups(function, count * axis_size)(*joined)
    return result.reshape(axis_size, -1, *result.shape[1:]), True

  return mapped


def _index(active_RB, count):
  """Active rows' indices among all, in order, and how many a group has."""
  (index_N,) = jnp.nonzero(active_RB.ravel(), size=count)
  return index_N, active_RB.sum(axis=1, dtype=jnp.int32)


def _take(x_RBD, index_N):
  return x_RBD.reshape(-1, x_RBD.shape[2])[index_N]


def _call(name, shape):
  return jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(shape, jnp.float32))
