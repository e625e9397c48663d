"""Experts that change their input: what they compute is added to it.

Where nothing is to be mended, as in most of a photograph, such an expert has
nothing to learn, and without any training it is next to the identity. Both see
as much of an image as an occlusion covers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from icm_jax import types
from icm_jax.kernels.convolution import Layer, halve
from icm_jax.models import convolution, normalisation

# Kernels of the last layer start this much smaller than others where experts
# are to copy: far below what an eye sees, but not zero, for of experts that
# agree in every pixel the first would win every image.
COPY_GAIN = 0.02


class UNetExpert(nn.Module):
  """Down to a few pixels by means, up again by repetition, with bridges.

  It sees the image whole where 2 ** levels pixels are no less than a fourth of
  its side. All of its convolutions are `convolution.Stack`s, the fast ones.

  Attributes:
    features: channels at full resolution; twice as many below.
    norm: "batch", "group" or "none".
    copies: whether it starts next to the identity.
    levels: how often the side is halved; sides must be multiples of
      2 ** levels.
  """

  features: int = 16
  norm: str = "none"
  copies: bool = False
  levels: int = 3

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    _check_sides(x_BHWC, self.levels)

    def stack(h_BHWF, *features):
      layers = tuple(Layer(f) for f in features)
      return convolution.ConvStack(layers, self.norm)(h_BHWF, train=train)

    wide = 2 * self.features
    # Around zero, as stacks expect it.
    h_BHWF = stack(2.0 * x_BHWC - 1.0, self.features, self.features)
    bridges = []
    for _ in range(self.levels):
      bridges.append(h_BHWF)
      h_BHWF = stack(halve(h_BHWF), wide, wide)
    for level in reversed(range(self.levels)):
      joined_BHWF = jnp.concatenate([double(h_BHWF), bridges[level]], axis=-1)
      h_BHWF = stack(joined_BHWF, wide if level else self.features)
    return _add(x_BHWC, h_BHWF, self.copies)


class DilatedExpert(nn.Module):
  """A row of residual 3x3 convolutions whose pixels are further and further.

  With dilations of 1, 2, 4 and 8 it sees 33x33 pixels. XLA's convolutions,
  which are slow on a CPU: there, `UNetExpert` is to be preferred.

  Attributes:
    features: channels of the hidden layers.
    norm: "batch", "group" or "none".
    copies: whether it starts next to the identity.
    dilations: of the layers.
  """

  features: int = 32
  norm: str = "none"
  copies: bool = False
  dilations: tuple[int, ...] = (1, 2, 4, 8)

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    h_BHWF = nn.Conv(self.features, (3, 3))(2.0 * x_BHWC - 1.0)
    for dilation in self.dilations:
      r_BHWF = nn.Conv(self.features, (3, 3), kernel_dilation=dilation)(h_BHWF)
      r_BHWF = normalisation.NormElu(self.norm)(r_BHWF, train=train)
      h_BHWF = h_BHWF + r_BHWF
    return _add(x_BHWC, h_BHWF, self.copies)


def _add(x_BHWC, h_BHWF, copies):
  """The input, changed by what the last layer makes of the features."""
  last = (Layer(x_BHWC.shape[-1], elu=False),)
  gain = COPY_GAIN if copies else 1.0
  return bounded(x_BHWC + convolution.Stack(last, gain=gain)(h_BHWF))


def double(x_BHWC: jax.Array) -> jax.Array:
  """Every pixel becomes 2x2 pixels."""
  batch, height, width, channels = x_BHWC.shape
  parts_B11 = x_BHWC.reshape(batch, height, 1, width, 1, channels)
  wide = jnp.broadcast_to(parts_B11, (batch, height, 2, width, 2, channels))
  return wide.reshape(batch, 2 * height, 2 * width, channels)


@jax.custom_vjp
def bounded(x: jax.Array) -> jax.Array:
  """Cuts to [0, 1]; what is outside still feels what would bring it back.

  The gradient of `jnp.clip` is zero outside, so that an output that is once
  too bright would stay so; that of a sigmoid is small near black and white,
  and it copies neither.
  """
  return jnp.clip(x, 0.0, 1.0)


def _bounded_backward(x, gradient):
  # A step against the gradient goes up where that is negative.
  leaves = ((x < 0.0) & (gradient > 0.0)) | ((x > 1.0) & (gradient < 0.0))
  return (jnp.where(leaves, 0.0, gradient),)


bounded.defvjp(lambda x: (bounded(x), x), _bounded_backward)


def _check_sides(x_BHWC, levels):
  sides, unit = x_BHWC.shape[1:3], 2**levels
  if any(side % unit for side in sides):
    raise types.InputError(
      f"A U-Net that halves {levels} times needs sides that are multiples of "
      f"{unit}; got {sides[0]}x{sides[1]}. Choose another image size, or fewer "
      "levels."
    )
