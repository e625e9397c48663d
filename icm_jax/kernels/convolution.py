"""Stacks of 3x3 convolutions, which take nearly all of a run's time.

The plain form, by XLA's convolutions, comes first; GPUs and TPUs run nothing
else. XLA's convolutions for CPUs, and above all their gradients, are several
times slower than necessary, and slower still when `jax.vmap` gives every expert
a kernel. Programs for CPUs therefore call `cpu/convolution.cc` (see
`primitive.Kernel`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import types
from icm_jax.kernels import primitive

# {"layer_0": {"kernel": [3, 3, C, F], "bias": [F]}, "layer_1": ...}
Parameters = Mapping[str, Mapping[str, jax.Array]]


class Layer(NamedTuple):
  """A 3x3 convolution with bias, zero padding and stride 1, and its followers.

  Attributes:
    features: number of channels of the output.
    elu: whether ELU follows the convolution.
    halve: whether a 2x2 mean pool is last; an odd side loses its last row.
  """

  features: int
  elu: bool = True
  halve: bool = False


# ------------------------------------------------------------------------------
# Parameters.


def layer_names(count: int) -> list[str]:
  """Returns the keys of a stack's parameters; sorted, they are in layer order.

  Args:
    count: number of layers.
  """
  digits = len(str(count - 1))
  return [f"layer_{index:0{digits}}" for index in range(count)]


def init_parameters(
  key: jax.Array, channels: int, layers: Sequence[Layer], gain: float = 1.0
) -> Parameters:
  """Draws kernels of variance 1 / (9 C), normal and cut at two deviations.

  Biases are zero. All kernels are one draw, because every draw would add a
  quarter of a second of compile time.

  Args:
    key: typed key; consumed.
    channels: C of the images.
    layers: layers of the stack.
    gain: factor of the kernels.

  Returns:
    float32 parameters, by the keys of `layer_names`.
  """
  shapes = []
  for layer in layers:
    shapes.append((3, 3, channels, layer.features))
    channels = layer.features
  sizes = [math.prod(shape) for shape in shapes]
  draw = jax.random.truncated_normal(key, -2.0, 2.0, (sum(sizes),), jnp.float32)
  parts = jnp.split(draw, np.cumsum(sizes)[:-1])
  parameters = {}
  for name, part, shape in zip(
    layer_names(len(layers)), parts, shapes, strict=True
  ):
    # 0.88 is the standard deviation of a normal number that is cut at 2.
    kernel = part.reshape(shape) / (0.87962566 * math.sqrt(9 * shape[2]))
    bias = jnp.zeros(shape[3], jnp.float32)
    parameters[name] = {"kernel": gain * kernel, "bias": bias}
  return parameters


# Scale of the random part of a copying kernel, relative to other kernels: small
# enough for a copy, and large enough that no two stacks start alike.
COPY_NOISE = 0.05


def init_copying(
  key: jax.Array, channels: int, layers: Sequence[Layer]
) -> Parameters:
  """Draws kernels that carry images through all layers, nearly unchanged.

  The first features of every layer are the image's channels plus a small random
  part; ELU does not change images in [0, 1]. All other features are random, as
  in `init_parameters`, so that the stack can learn.

  Args:
    key: typed key; consumed.
    channels: C of the image.
    layers: layers of the stack: none halves, and each has at least C features.

  Returns:
    float32 parameters, by the keys of `layer_names`.

  Raises:
    InputError: a layer cannot carry the image.
  """
  if any(layer.halve or layer.features < channels for layer in layers):
    raise types.InputError(
      f"A stack that copies {channels} channels needs as many features in "
      "every layer, and none that halves."
    )
  carry = jnp.eye(channels, dtype=jnp.float32).reshape(1, 1, channels, channels)
  copying = {}
  for name, layer in init_parameters(key, channels, layers).items():
    kernel = layer["kernel"].at[..., :channels].multiply(COPY_NOISE)
    kernel = kernel.at[1:2, 1:2, :channels, :channels].add(carry)
    copying[name] = {"kernel": kernel, "bias": layer["bias"]}
  return copying


# ------------------------------------------------------------------------------
# The plain form. Primitives take arrays one by one: `flat` is a kernel and a
# bias of every layer.


def plain_stack(
  x_BHWC: jax.Array, parameters: Parameters, layers: Sequence[Layer]
) -> jax.Array:
  """Computes `stack` by XLA's convolutions on every platform."""
  return _plain_values(x_BHWC, *_flat(parameters), layers=layers)[-1]


def _plain_values(x_BHWC, *flat, layers):
  """Returns every layer's value before halving; the last is the result."""
  values = []
  for kernel, bias, layer in zip(flat[::2], flat[1::2], layers, strict=True):
    x_BHWC = _convolve(x_BHWC, kernel) + bias.reshape(1, 1, 1, -1)
    if layer.elu:
      x_BHWC = jax.nn.elu(x_BHWC)
    values.append(x_BHWC)
    if layer.halve:
      x_BHWC = halve(x_BHWC)
  return (*values, x_BHWC) if layers[-1].halve else tuple(values)


def _convolve(x_BHWC, kernel):
  return jax.lax.conv_general_dilated(
    x_BHWC,
    kernel,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def halve(x_BHWC: jax.Array) -> jax.Array:
  """Returns means of 2x2 pixels; an odd side loses its last row."""
  batch, height, width, channels = x_BHWC.shape
  height, width = height // 2, width // 2
  even_BHWC = x_BHWC[:, : 2 * height, : 2 * width]
  parts = even_BHWC.reshape(batch, height, 2, width, 2, channels)
  return parts.mean(axis=(2, 4))


def _plain_gradient(gradient_BHWC, x_BHWC, *arrays, layers):
  """Computes gradients with respect to a stack's arguments.

  It is the gradient that JAX would derive, except that it uses the values that
  `_plain_values` returned.

  Args:
    gradient_BHWC: gradient with respect to the result.
    x_BHWC: images.
    *arrays: a kernel and a bias of every layer, then the stack's values.
    layers: layers of the stack.
  """
  count = len(layers)
  kernels, values = arrays[: 2 * count : 2], arrays[2 * count : 3 * count]
  inputs = [x_BHWC]
  for value_BHWC, layer in zip(values, layers, strict=True):
    inputs.append(halve(value_BHWC) if layer.halve else value_BHWC)
  gradients = []
  for layer, input_BHWC, kernel, value_BHWC in reversed(
    list(zip(layers, inputs[:-1], kernels, values, strict=True))
  ):
    if layer.halve:
      _, pull = jax.vjp(halve, value_BHWC)
      (gradient_BHWC,) = pull(gradient_BHWC)
    if layer.elu:  # ELU's slope is 1 above zero, and its value plus 1 below.
      gradient_BHWC *= jnp.where(value_BHWC > 0.0, 1.0, value_BHWC + 1.0)
    bias_gradient = gradient_BHWC.sum(axis=(0, 1, 2))
    _, pull = jax.vjp(_convolve, input_BHWC, kernel)
    gradient_BHWC, kernel_gradient = pull(gradient_BHWC)
    gradients = [kernel_gradient, bias_gradient, *gradients]
  return gradient_BHWC, *gradients


# ------------------------------------------------------------------------------
# The kernels.


def _attributes(layers, **more):
  return {
    "elu": np.array([layer.elu for layer in layers], np.int64),
    "halve": np.array([layer.halve for layer in layers], np.int64),
    **more,
  }


_values = primitive.Kernel(
  "icm_stack_values",
  _plain_values,
  call=primitive.Call("IcmStack", functools.partial(_attributes, save=True)),
)
_gradient = primitive.Kernel(
  "icm_stack_gradient",
  _plain_gradient,
  call=primitive.Call("IcmStackGradient", _attributes),
)
_stack = primitive.Kernel(
  "icm_stack",
  lambda *arrays, layers: _plain_values(*arrays, layers=layers)[-1:],
  call=primitive.Call("IcmStack", functools.partial(_attributes, save=False)),
  derivative=primitive.Derivative(forward=_values, backward=_gradient),
)


def stack(
  x_BHWC: jax.Array, parameters: Parameters, layers: Sequence[Layer]
) -> jax.Array:
  """Applies layers one after the other, [B, H, W, C] -> [B, H', W', features].

  Args:
    x_BHWC: images; compiled convolutions need float32, see `primitive.Kernel`.
    parameters: parameters of every layer, by the keys of `layer_names`.
    layers: layers of the stack, at least one.

  Raises:
    InputError: shapes or keys do not fit together.
  """
  _check(x_BHWC, parameters, layers)
  (y_BHWC,) = _stack(x_BHWC, *_flat(parameters), layers=tuple(layers))
  return y_BHWC


def _flat(parameters):
  return [
    parameters[name][part]
    for name in layer_names(len(parameters))
    for part in ("kernel", "bias")
  ]


def _check(x_BHWC, parameters, layers):
  if x_BHWC.ndim != 4 or not layers:
    raise types.InputError(
      "Expected images [B, H, W, C] and at least one layer; got "
      f"{x_BHWC.shape} and {len(layers)} layers."
    )
  if sorted(parameters) != layer_names(len(layers)):
    raise types.InputError(
      f"Expected parameters of {', '.join(layer_names(len(layers)))}; got "
      f"{', '.join(sorted(parameters))}."
    )
  channels = x_BHWC.shape[-1]
  for name, layer in zip(layer_names(len(layers)), layers, strict=True):
    wanted = (3, 3, channels, layer.features)
    kernel, bias = parameters[name]["kernel"], parameters[name]["bias"]
    if kernel.shape != wanted or bias.shape != wanted[3:]:
      raise types.InputError(
        f"Expected in {name} a kernel {wanted} and a bias {wanted[3:]}; got "
        f"{kernel.shape} and {bias.shape}."
      )
    channels = layer.features
