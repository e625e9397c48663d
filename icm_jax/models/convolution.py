"""Stacks of 3x3 convolutions, which are nearly all of a run's work.

On a CPU they run in `convolution.cc`, if that was compiled when the package was
installed: XLA's own, and above all their gradients, are several times slower
there, and slower still when `jax.vmap` has given every expert a kernel. Where
nothing was compiled, and on accelerators, they are XLA's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from icm_jax import types
from icm_jax.models import compiled


class Layer(NamedTuple):
  """A 3x3 convolution with bias, zero padding and stride 1, and what follows.

  Attributes:
    features: channels of its output.
    elu: whether ELU follows.
    halve: whether means of 2x2 pixels follow; an odd side loses its last row.
  """

  features: int
  elu: bool = True
  halve: bool = False


class Parameters(NamedTuple):
  """Of a layer: kernel [3, 3, C, features] and bias [features]."""

  kernel: jax.Array
  bias: jax.Array


class Stack(nn.Module):
  """Layers one after the other, [B, H, W, C] -> [B, H', W', features].

  Attributes:
    layers: at least one.
    copies: whether it starts as a copy of its input, see `init_copying`.
    gain: factor of the kernels that it starts from; not where it copies.
  """

  layers: tuple[Layer, ...]
  copies: bool = False
  gain: float = 1.0

  @nn.compact
  def __call__(self, x_BHWC):
    init = init_copying if self.copies else self._init
    parameters = self.param("layers", init, x_BHWC.shape[-1], self.layers)
    return stack(x_BHWC, parameters, self.layers)

  def _init(self, key, channels, layers):
    return tuple(
      Parameters(self.gain * kernel, bias)
      for kernel, bias in init_parameters(key, channels, layers)
    )


def init_parameters(
  key: jax.Array, channels: int, layers: Sequence[Layer]
) -> tuple[Parameters, ...]:
  """Kernels of variance 1 / (9 C), normal and cut at two deviations; no bias.

  All are one draw, for every draw would add a quarter of a second of compiling.
  """
  shapes = []
  for layer in layers:
    shapes.append((3, 3, channels, layer.features))
    channels = layer.features
  sizes = [math.prod(shape) for shape in shapes]
  draw = jax.random.truncated_normal(key, -2.0, 2.0, (sum(sizes),))
  parts = jnp.split(draw, np.cumsum(sizes)[:-1])
  # 0.88 is the standard deviation of what is cut at 2.
  return tuple(
    Parameters(
      part.reshape(shape) / (0.87962566 * math.sqrt(9 * shape[2])),
      jnp.zeros(shape[3]),
    )
    for part, shape in zip(parts, shapes, strict=True)
  )


# What is random in a kernel that copies, relative to one that does not: little
# enough that a copy stays one, and enough that no two stacks start alike.
COPY_NOISE = 0.05


def init_copying(
  key: jax.Array, channels: int, layers: Sequence[Layer]
) -> tuple[Parameters, ...]:
  """Kernels that carry images through all layers, nearly unchanged.

  The first features of every layer are the image's channels, plus little that
  is random; ELU leaves images in [0, 1] alone. All other features are random as
  in `init_parameters`, so that there is something to learn from.

  Args:
    key: consumed.
    channels: C of the image.
    layers: none halves, and each has at least C features.

  Raises:
    InputError: a layer cannot carry the image.
  """
  if any(layer.halve or layer.features < channels for layer in layers):
    raise types.InputError(
      f"A stack that copies {channels} channels needs as many features in "
      "every layer, and none that halves."
    )
  carry = jnp.eye(channels).reshape(1, 1, channels, channels)
  copying = []
  for kernel, bias in init_parameters(key, channels, layers):
    kernel = kernel.at[..., :channels].multiply(COPY_NOISE)
    kernel = kernel.at[1:2, 1:2, :channels, :channels].add(carry)
    copying.append(Parameters(kernel, bias))
  return tuple(copying)


def stack(
  x_BHWC: jax.Array, parameters: Sequence[Parameters], layers: Sequence[Layer]
) -> jax.Array:
  """Applies layers; compiled for float32 on a CPU, else by XLA.

  Args:
    x_BHWC: images.
    parameters: of every layer.
    layers: at least one.

  Raises:
    InputError: shapes do not fit together.
  """
  _check(x_BHWC, parameters, layers)
  if compiled.takes(*jax.tree.leaves((x_BHWC, parameters))):
    return _compiled(x_BHWC, tuple(parameters), tuple(layers))
  return plain_stack(x_BHWC, parameters, layers)


def plain_stack(
  x_BHWC: jax.Array, parameters: Sequence[Parameters], layers: Sequence[Layer]
) -> jax.Array:
  """The same by XLA's convolutions, whatever the machine."""
  for (kernel, bias), layer in zip(parameters, layers, strict=True):
    x_BHWC = jax.lax.conv_general_dilated(
      x_BHWC,
      kernel,
      window_strides=(1, 1),
      padding="SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x_BHWC = x_BHWC + bias.reshape(1, 1, 1, -1)
    if layer.elu:
      x_BHWC = nn.elu(x_BHWC)
    if layer.halve:
      x_BHWC = nn.avg_pool(x_BHWC, (2, 2), strides=(2, 2))
  return x_BHWC


def _check(x_BHWC, parameters, layers):
  if x_BHWC.ndim != 4 or not layers or len(parameters) != len(layers):
    raise types.InputError(
      "Expected images [B, H, W, C] and the parameters of at least one layer; "
      f"got {x_BHWC.shape} and {len(parameters)} for {len(layers)} layers."
    )
  channels = x_BHWC.shape[-1]
  for (kernel, bias), layer in zip(parameters, layers, strict=True):
    wanted = (3, 3, channels, layer.features)
    if kernel.shape != wanted or bias.shape != wanted[3:]:
      raise types.InputError(
        f"Expected a kernel {wanted} and a bias {wanted[3:]}; got "
        f"{kernel.shape} and {bias.shape}."
      )
    channels = layer.features


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _compiled(x_BHWC, parameters, layers):
  *_, y_BHWC = _call_stack(x_BHWC, parameters, layers, save=False)
  return y_BHWC


def _forward(x_BHWC, parameters, layers):
  outputs = _call_stack(x_BHWC, parameters, layers, save=True)
  kernels = [kernel for kernel, _ in parameters]
  return outputs[-1], (x_BHWC, outputs[: len(layers)], kernels)


def _backward(layers, residuals, gradient_BHWC):
  x_BHWC, values, kernels = residuals
  shapes = [x_BHWC.shape]
  for kernel in kernels:
    shapes += [kernel.shape, kernel.shape[3:]]
  dx_BHWC, *gradients = _call("IcmStackGradient", shapes)(
    gradient_BHWC, x_BHWC, *values, *kernels, **_attributes(layers)
  )
  pairs = zip(gradients[::2], gradients[1::2], strict=True)
  return dx_BHWC, tuple(Parameters(*pair) for pair in pairs)


_compiled.defvjp(_forward, _backward)


def _call_stack(x_BHWC, parameters, layers, *, save):
  """Every layer's value before it was halved, if asked for, and the result."""
  batch, height, width, _ = x_BHWC.shape
  shapes = []
  for layer in layers:
    shapes.append((batch, height, width, layer.features))
    if layer.halve:
      height, width = height // 2, width // 2
  if layers[-1].halve:
    shapes.append((batch, height, width, layers[-1].features))
  return _call("IcmStack", shapes if save else shapes[-1:])(
    x_BHWC, *jax.tree.leaves(parameters), save=save, **_attributes(layers)
  )


def _attributes(layers):
  return {
    "elu": np.array([layer.elu for layer in layers], np.int64),
    "halve": np.array([layer.halve for layer in layers], np.int64),
  }


def _call(name, shapes):
  """A call to which vmap gives an axis more, of size 1 in what is shared."""
  results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.ffi.ffi_call(name, results, vmap_method="expand_dims")
