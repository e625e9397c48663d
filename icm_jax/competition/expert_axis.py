"""Mapping over the leading expert axis, and selecting along it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from icm_jax import devices, kernels, types


class Form(NamedTuple):
  """How an update maps over experts, and how winners learn.

  "unroll" is a Python loop, "vmap" one operation for all.

  Attributes:
    experts: map of experts over all images, and over groups of images that one
      expert won.
    discriminator: map of the discriminator over the outputs of all experts. Its
      kernels are shared, so that "vmap" gives one larger convolution, and no
      grouped one.
    size: images of a group; None is an expert's equal share of the batch.
    masked: whether there are no groups, and the backward pass runs over all
      outputs, with zeros where an expert lost.
  """

  experts: str
  discriminator: str
  size: int | None = None
  masked: bool = False


# Unrolled groups of fewer than 4 images need more, smaller convolutions; larger
# groups have more empty slots, because each expert's last group is seldom full.
# The names with two parts are for accelerators. `benchmarks/README.md` has the
# times of more forms on a GPU; these are the two fastest.
FORMS = {
  "unroll": Form("unroll", "unroll", size=4),
  "vmap": Form("vmap", "vmap", size=1),
  "unroll_blocks": Form("unroll", "vmap"),
  "vmap_masked": Form("vmap", "vmap", masked=True),
}
ON_ACCELERATORS = "unroll_blocks"
MODES = ("auto", *FORMS)


def check(mode: str) -> None:
  """Checks that a mode is known.

  Args:
    mode: "auto" or a name of `FORMS`.

  Raises:
    InputError: the mode is unknown; lists the known ones.
  """
  if mode not in MODES:
    raise types.InputError(
      f"The expert map must be one of {', '.join(MODES)}; got {mode!r}."
    )


def resolve(
  mode: str, fn: Callable[..., Any], in_axes: tuple[int | None, ...], *args: Any
) -> str:
  """Turns "auto" into the mode that suits a function and the backend.

  Functions without convolutions are vmapped. For others, "auto" depends on the
  backend, JAX's default one when the function is traced; name the mode of a
  program that is lowered for another platform.

  On CPU, XLA's gradient of a vmapped (grouped) convolution is tens of times
  slower than a Python loop, and its gradient of one convolution over many
  images takes about twice the time of several convolutions over few images. So
  "auto" is "unroll" for functions with XLA's convolutions, and "vmap" for the
  compiled convolutions of `icm_jax.kernels`.

  On accelerators it is "unroll_blocks", the fastest form of the one size that
  was measured: on an H100, 10 experts, batches of 1,024 of 32x32x1, bfloat16,
  an update takes 39.0 ms, and 41.9 ms by "vmap_masked". Batches of 32 and 32
  experts were not measured. The program grows with the number of experts; that
  of "vmap_masked" does not, but takes 2.8 times the memory.

  Args:
    mode: mode that the user chose.
    fn: function to be mapped.
    in_axes: axes of its arguments, see `map_leading`.
    *args: arguments of the mapped function.

  Returns:
    A name of `FORMS`.

  Raises:
    InputError: the mode is unknown.
  """
  check(mode)
  if mode != "auto":
    return mode
  one = [
    arg
    if axis is None
    else jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), arg)
    for arg, axis in zip(args, in_axes, strict=True)
  ]
  on_cpu = jax.default_backend() == "cpu"
  compiled = on_cpu and kernels.is_compiled()
  if not _has_convolution(jax.make_jaxpr(fn)(*one).jaxpr, compiled):
    return "vmap"
  return "unroll" if on_cpu else ON_ACCELERATORS


def _has_convolution(jaxpr: Any, compiled: bool) -> bool:
  """Whether there are XLA's convolutions, or kernels that become these."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "conv_general_dilated":
      return True
    if kernels.is_kernel(equation.primitive) and not compiled:
      return True
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns") and _has_convolution(inner, compiled):
        return True
  return False


def of_discriminator(mode: str) -> str:
  """Returns the mode of the discriminator's map over the experts' outputs.

  Args:
    mode: mode that the user chose; "auto" stays what it is on CPU.
  """
  if mode == "auto" and jax.default_backend() == "cpu":
    return mode
  return FORMS[ON_ACCELERATORS if mode == "auto" else mode].discriminator


def map_leading(
  fn: Callable[..., Any], in_axes: tuple[int | None, ...], *, mode: str
) -> Callable[..., Any]:
  """Maps `fn` over leading axes, as `jax.vmap` does, in one of two forms.

  Args:
    fn: function of positional arguments.
    in_axes: 0 for an argument that is mapped, None for one that is shared.
    mode: a name of `FORMS`, of which `experts` is used; or "auto", see
      `resolve`.

  Returns:
    A function of the same arguments; its outputs have a new leading axis.
  """

  def mapped(*args):
    if FORMS[resolve(mode, fn, in_axes, *args)].experts == "vmap":
      return jax.vmap(fn, in_axes=in_axes)(*args)
    (size,) = {
      leaf.shape[0]
      for arg, axis in zip(args, in_axes, strict=True)
      if axis is not None
      for leaf in jax.tree.leaves(arg)
    }

    def call(index):
      return fn(
        *(
          arg if axis is None else jax.tree.map(lambda a: a[index], arg)
          for arg, axis in zip(args, in_axes, strict=True)
        )
      )

    outs = [call(index) for index in range(size)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)

  return mapped


def select(
  pred_E: jax.Array, on_true_E: types.PyTree, on_false_E: types.PyTree
) -> types.PyTree:
  """Selects between two trees, expert by expert.

  Args:
    pred_E: bool; of all devices' experts, where these are divided.
    on_true_E: tree whose entries are taken where `pred_E` is true.
    on_false_E: tree of the same structure, whose entries are taken elsewhere.
  """

  pred_E = devices.own(pred_E, expert=0)

  def pick(a, b):
    return jnp.where(pred_E.reshape(-1, *[1] * (a.ndim - 1)), a, b)

  return jax.tree.map(pick, on_true_E, on_false_E)
