"""JAX primitives that have a compiled form for CPUs beside the one by XLA.

A `Kernel` is a function of arrays. Its plain form, in terms of `jax.numpy` and
`jax.lax`, says what it computes; every platform can run it. A program that is
lowered for a CPU calls a compiled function instead, if there is one. This is
decided when the program is lowered, for the platform that it is lowered for, so
that programs for a GPU or a TPU, and programs that are exported, contain
nothing but XLA's operations, on whatever machine they are made.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from icm_jax.kernels import choice
from icm_jax.kernels.cpu import library

# XLA's convolutions of several kernels at once, and above all their gradients,
# are tens of times slower on a CPU than as many convolutions one by one; but
# each of these adds to the time that compiling takes.
_MOST_UNROLLED = 64

Arrays = tuple[jax.Array, ...]
PlainForm = Callable[..., Arrays]


class Call(NamedTuple):
  """A function of the compiled library (`icm_jax.kernels.cpu`).

  Attributes:
    target: its name there.
    attributes: from the static arguments of a kernel to what the compiled
      function is told beside the arrays: numbers and arrays of numbers.
  """

  target: str
  attributes: Callable[..., Mapping[str, Any]]


class Derivative(NamedTuple):
  """Reverse mode by compiled functions.

  Attributes:
    forward: a kernel of the same arguments; the last of its results are those
      of the kernel that is differentiated, the others are kept for `backward`.
    backward: a kernel of the cotangents of the results, the arguments, and all
      results of `forward`; returns the cotangents of the arguments.
  """

  forward: Kernel
  backward: Kernel


class Kernel:
  """A function of float32 arrays with a plain and perhaps a compiled form.

  Transformations of it work as those of the plain form do. `jax.vmap` gives
  every array a leading axis, a "group" axis, of size 1 where an array is
  shared, and the compiled function takes such arrays whole. Reverse mode is
  compiled where `derivative` says how; forward mode and derivatives of
  derivatives are those of the plain form. Under `jax.shard_map`, devices call
  it on their own part. Where XLA itself partitions a program over devices, it
  cannot see into a compiled function: all of them then compute all of it.
  """

  def __init__(
    self,
    name: str,
    plain: PlainForm,
    *,
    call: Call | None = None,
    derivative: Derivative | None = None,
  ):
    """Makes the primitive.

    Args:
      name: as it is shown in jaxprs.
      plain: the plain form, of arrays, with hashable keyword arguments; returns
        a tuple of arrays.
      call: the compiled form.
      derivative: how to differentiate it in reverse; the plain form is
        differentiated where there is none.
    """
    self._plain = plain
    self._call = call
    self.primitive = core.Primitive(name)
    self.primitive.multiple_results = True
    self.primitive.def_impl(self._run)
    self.primitive.def_abstract_eval(self._abstract)
    batching.primitive_batchers[self.primitive] = self._batch
    mlir.register_lowering(self.primitive, self._lower)
    ad.primitive_jvps[self.primitive] = self._plain_jvp
    if derivative:
      self._derivative = derivative
      self._tangent = Kernel(f"{name}_tangent", self._tangents)
      ad.primitive_jvps[self.primitive] = self._jvp
      ad.primitive_transposes[self._tangent.primitive] = self._transpose
    _KERNELS.add(self.primitive)

  def __call__(self, *arrays: jax.Array, **static: Any) -> Arrays:
    """The function; its plain form where the compiled one has no part.

    That is where `icm_jax.kernels.use` or the environment says so, or an array
    is not float32.
    """
    if choice.is_xla() or any(a.dtype != jnp.float32 for a in arrays):
      return self._plain(*arrays, **static)
    return tuple(self.bind(*arrays, groups=0, **static))

  def bind(self, *arrays: jax.Array, groups: int, **static: Any):
    """The primitive itself, of arrays that all have `groups` leading axes."""
    return self.primitive.bind(*_vary_alike(arrays), groups=groups, **static)

  def _run(self, *arrays, **params):
    return _jitted(self.primitive, tuple(sorted(params.items())))(*arrays)

  def _grouped(self, *arrays, groups, unroll=False, **static):
    fn = functools.partial(self._plain, **static)
    return _over_groups(fn, arrays, groups, unroll)

  def _abstract(self, *avals, **params):
    plain = functools.partial(self._grouped, **params)
    return jax.make_jaxpr(plain)(*avals).out_avals

  def _batch(self, arrays, axes, *, groups, **static):
    grouped = [
      array[None] if axis is None else jnp.moveaxis(array, axis, 0)
      for array, axis in zip(arrays, axes, strict=True)
    ]
    results = self.bind(*grouped, groups=groups + 1, **static)
    return results, [0] * len(results)

  def _lower(self, ctx, *operands, groups, **static):
    platforms = tuple(ctx.platforms or ctx.module_context.platforms)
    on_cpu = platforms == ("cpu",)
    # Whoever loads an exported program may not have the library.
    exported = ctx.module_context.lowering_parameters.for_export
    if self._call and on_cpu and not exported and library.is_available():
      lower = jax.ffi.ffi_lowering(self._call.target)
      return lower(ctx, *operands, **self._call.attributes(**static))
    count = math.prod(ctx.avals_out[0].shape[:groups])
    # An exported program may have a group axis without a known size.
    few = isinstance(count, int) and count <= _MOST_UNROLLED
    plain = functools.partial(
      self._grouped, groups=groups, unroll=on_cpu and few, **static
    )
    return mlir.lower_fun(plain, multiple_results=True)(ctx, *operands)

  def _plain_jvp(self, primals, tangents, **params):
    tangents = [ad.instantiate_zeros(t) for t in tangents]
    fn = functools.partial(self._grouped, **params)
    return jax.jvp(fn, tuple(primals), tuple(tangents))

  def _jvp(self, primals, tangents, **params):
    # What reverse mode needs is computed with the result, by `forward`, and
    # handed to a kernel that is linear in the tangents: its transpose is
    # `backward`. In forward mode that kernel is computed itself.
    tangents = [ad.instantiate_zeros(t) for t in tangents]
    kept = self._derivative.forward.bind(*primals, **params)
    tangents_out = self._tangent.bind(
      *tangents, *primals, *kept, count=len(primals), **params
    )
    return kept[len(kept) - len(tangents_out) :], tangents_out

  def _tangents(self, *arrays, count, **static):
    tangents, primals = arrays[:count], arrays[count : 2 * count]
    fn = functools.partial(self._plain, **static)
    return jax.jvp(fn, primals, tangents)[1]

  def _transpose(self, cotangents, *arrays, count, **params):
    cotangents = [ad.instantiate_zeros(c) for c in cotangents]
    gradients = self._derivative.backward.bind(
      *cotangents, *arrays[count:], **params
    )
    # Where groups share an argument, its gradient is the sum of theirs.
    return [
      _sum_to(gradient, array.aval.shape)
      if ad.is_undefined_primal(array)
      else None
      for gradient, array in zip(gradients, arrays, strict=False)
    ] + [None] * (len(arrays) - count)


_KERNELS: set[core.Primitive] = set()


def is_kernel(primitive: core.Primitive) -> bool:
  """Whether a primitive of a jaxpr belongs to a `Kernel`."""
  return primitive in _KERNELS


@functools.cache
def _jitted(primitive, params):
  return jax.jit(functools.partial(primitive.bind, **dict(params)))


def _vary_alike(arrays):
  """Lets all arrays vary over the mesh axes that any of them varies over.

  Under `jax.shard_map`, this is what tells JAX to sum a shared argument's
  gradients over devices. Elsewhere nothing varies.
  """
  own = [_axes_of_variation(jax.typeof(array)) for array in arrays]
  wanted = frozenset().union(*own)
  return [
    _vary(array, tuple(sorted(wanted - axes, key=str)))
    for array, axes in zip(arrays, own, strict=True)
  ]


def _axes_of_variation(aval):
  return aval.mat.varying if hasattr(aval, "mat") else aval.vma  # In old jax.


def _vary(array, axes):
  if not axes:
    return array
  if hasattr(jax.lax, "pcast"):
    return jax.lax.pcast(array, axes, to="varying")
  return jax.lax.pvary(array, axes)  # In old jax.


def _over_groups(fn, arrays, groups, unroll):
  """A function of arrays without group axes, over `groups` leading axes."""
  if groups == 0:
    return fn(*arrays)
  inner = lambda *arrays: _over_groups(fn, arrays, groups - 1, unroll)
  sizes = [array.shape[0] for array in arrays]
  size = next((size for size in sizes if size != 1), 1)
  if size == 1:
    return tuple(result[None] for result in inner(*(a[0] for a in arrays)))
  if unroll:
    results = [
      inner(*(a[0 if a.shape[0] == 1 else group] for a in arrays))
      for group in range(size)
    ]
    return tuple(jnp.stack(parts) for parts in zip(*results, strict=True))
  axes = tuple(None if own == 1 else 0 for own in sizes)
  shared = (
    a[0] if axis is None else a for a, axis in zip(arrays, axes, strict=True)
  )
  return jax.vmap(inner, in_axes=axes)(*shared)


def _sum_to(array, shape):
  """Sums over the axes in which `shape` has 1 and the array has more."""
  axes = tuple(
    axis
    for axis, (own, wanted) in enumerate(zip(array.shape, shape, strict=True))
    if own != wanted
  )
  return array.sum(axis=axes, keepdims=True) if axes else array
