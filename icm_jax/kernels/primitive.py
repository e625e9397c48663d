"""JAX primitives with a compiled form for CPUs.

A `Kernel` is a function of arrays. Its plain form, in terms of `jax.numpy` and
`jax.lax`, defines the function and runs on every platform. A program that is
lowered for a CPU calls a compiled function instead, if there is one. The choice
is made for the platform that a program is lowered for, when it is lowered.
Programs for a GPU or a TPU, and exported programs, therefore contain only XLA's
operations, even if they are made on a machine with a CPU alone.
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

# Largest number of groups that the plain form unrolls on a CPU. There, XLA's
# grouped convolutions, and above all their gradients, are tens of times slower
# than one convolution for each group; but each of these adds to compile time.
_MOST_UNROLLED = 64

Arrays = tuple[jax.Array, ...]
PlainForm = Callable[..., Arrays]


class Call(NamedTuple):
  """A function of the compiled library (`icm_jax.kernels.cpu`).

  Attributes:
    target: name of the function in the library.
    attributes: function from the static arguments of a kernel to the attributes
      of the compiled function: numbers and NumPy arrays by name.
  """

  target: str
  attributes: Callable[..., Mapping[str, Any]]


class Derivative(NamedTuple):
  """The reverse mode of a kernel, by two other kernels.

  Attributes:
    forward: kernel of the same arguments. Its last results are those of the
      kernel that is differentiated; the others are kept for `backward`.
    backward: kernel of the cotangents of the results, the arguments, and all
      results of `forward`; returns the cotangents of the arguments.
  """

  forward: Kernel
  backward: Kernel


class Kernel:
  """A function of float32 arrays with a plain and perhaps a compiled form.

  Transformations give the results that they give for the plain form. `jax.vmap`
  adds a leading "group" axis to every array, of size 1 where an array is
  shared, and the compiled function takes such arrays as they are. Reverse mode
  is compiled if there is a `derivative`; forward mode and higher derivatives
  are those of the plain form. Under `jax.shard_map`, every device computes its
  own part. XLA cannot partition a compiled function: where it partitions a
  program over devices by itself, every device computes the whole function.
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
      name: name of the primitive in jaxprs.
      plain: plain form, a function of arrays with hashable keyword arguments;
        returns a tuple of arrays.
      call: compiled form; None if there is none.
      derivative: reverse mode; None differentiates the plain form.
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
    """Computes the function.

    The plain form is used, without the primitive, if `icm_jax.kernels.use` or
    the environment asks for XLA's operations, or if an array is not float32.
    """
    if choice.is_xla() or any(a.dtype != jnp.float32 for a in arrays):
      return self._plain(*arrays, **static)
    return tuple(self.bind(*arrays, groups=0, **static))

  def bind(self, *arrays: jax.Array, groups: int, **static: Any):
    """Applies the primitive to arrays that all have `groups` leading axes."""
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
    # The machine that loads an exported program may not have the library.
    exported = ctx.module_context.lowering_parameters.for_export
    if self._call and on_cpu and not exported and library.is_available():
      channels = [aval.shape[-1] for aval in ctx.avals_in]
      lower = jax.ffi.ffi_lowering(library.form(self._call.target, channels))
      return lower(ctx, *operands, **self._call.attributes(**static))
    count = math.prod(ctx.avals_out[0].shape[:groups])
    # The size of a group axis may be unknown in an exported program.
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
    # `forward` computes the result together with the values that reverse mode
    # needs. They go to a kernel that is linear in the tangents, whose transpose
    # is `backward`. Forward mode computes that kernel.
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
    # The gradient of a shared argument is the sum over groups.
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
  """Marks all arrays as varying over the mesh axes that any one varies over.

  Under `jax.shard_map`, this makes JAX sum the gradients of a shared argument
  over devices. Elsewhere no array varies.
  """
  own = [_axes_of_variation(jax.typeof(array)) for array in arrays]
  wanted = frozenset().union(*own)
  return [
    _vary(array, tuple(sorted(wanted - axes, key=str)))
    for array, axes in zip(arrays, own, strict=True)
  ]


def _axes_of_variation(aval):
  # Older versions of jax have `vma`.
  return aval.mat.varying if hasattr(aval, "mat") else aval.vma


def _vary(array, axes):
  if not axes:
    return array
  if hasattr(jax.lax, "pcast"):
    return jax.lax.pcast(array, axes, to="varying")
  return jax.lax.pvary(array, axes)  # Older versions of jax.


def _over_groups(fn, arrays, groups, unroll):
  """Maps a function of arrays without group axes over `groups` leading axes."""
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
  """Sums over the axes whose size is 1 in `shape` and larger in the array."""
  axes = tuple(
    axis
    for axis, (own, wanted) in enumerate(zip(array.shape, shape, strict=True))
    if own != wanted
  )
  return array.sum(axis=axes, keepdims=True) if axes else array
