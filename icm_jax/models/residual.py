"""Experts that add a computed change to their input.

Such an expert has nothing to learn where an image needs no change, as in most
of a photograph, and without any training it is close to the identity. The
receptive fields of both experts are as large as an occlusion.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from icm_jax import types
from icm_jax.kernels.convolution import Layer, halve
from icm_jax.models import convolution, normalisation

# Factor of the last layer's initial kernels in experts that copy: the change is
# far below what an eye sees, but not zero, because the first of several equal
# experts would win every image.
COPY_GAIN = 0.02
# The same for experts with a mask, which lets a fourth of the change through at
# the start.
MASK_COPY_GAIN = 0.1


class UNetExpert(nn.Module):
  """A U-Net that halves by means, doubles by repetition, and has bridges.

  Its receptive field is the whole image if 2 ** levels pixels are at least a
  fourth of a side. All of its convolutions belong to a `convolution.Stack`, and
  have compiled forms.

  Attributes:
    features: channels at full resolution; lower resolutions have twice as many.
    norm: "batch", "group" or "none".
    copies: whether the expert starts close to the identity.
    levels: number of times that a side is halved; sides must be multiples of
      2 ** levels.
    masked: whether the change is multiplied by a mask in [0, 1] for each pixel,
      which the expert computes too (VA-GAN and SaGAN, 2018). Where the mask is
      0, the output is the input, to the bit.

  Raises:
    InputError: a side is not a multiple of 2 ** levels.
  """

  features: int = 16
  norm: str = "none"
  copies: bool = False
  levels: int = 3
  masked: bool = False

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    _check_sides(x_BHWC, self.levels)

    def stack(h_BHWF, *features):
      layers = tuple(Layer(f) for f in features)
      return convolution.ConvStack(layers, self.norm)(h_BHWF, train=train)

    wide = 2 * self.features
    # Kernels are initialised for inputs around zero.
    h_BHWF = stack(2.0 * x_BHWC - 1.0, self.features, self.features)
    bridges = []
    for _ in range(self.levels):
      bridges.append(h_BHWF)
      h_BHWF = stack(halve(h_BHWF), wide, wide)
    for level in reversed(range(self.levels)):
      joined_BHWF = jnp.concatenate([double(h_BHWF), bridges[level]], axis=-1)
      h_BHWF = stack(joined_BHWF, wide if level else self.features)
    add = _add_masked if self.masked else _add
    return add(x_BHWC, h_BHWF, self.copies)


class DilatedExpert(nn.Module):
  """A row of residual 3x3 convolutions with growing dilations.

  With dilations of 1, 2, 4 and 8 its receptive field has 35x35 pixels. Dilated
  convolutions have no compiled form and are slow on a CPU; use `UNetExpert`
  there.

  Attributes:
    features: channels of the hidden layers.
    norm: "batch", "group" or "none".
    copies: whether the expert starts close to the identity.
    dilations: dilation of each residual layer.
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
  """Adds the last layer's change to the input."""
  last = (Layer(x_BHWC.shape[-1], elu=False),)
  gain = COPY_GAIN if copies else 1.0
  return bounded(x_BHWC + convolution.Stack(last, gain=gain)(h_BHWF))


def _add_masked(x_BHWC, h_BHWF, copies):
  """Adds the last layer's change where the last layer's mask allows it."""
  channels = x_BHWC.shape[-1]
  last = (Layer(channels + 1, elu=False),)
  gain = MASK_COPY_GAIN if copies else 1.0
  h_BHWC = convolution.Stack(last, gain=gain)(h_BHWF)
  # The mask starts at about a fourth.
  mask_BHW1 = jax.nn.sigmoid(h_BHWC[..., channels:] - 1.0)
  return bounded(x_BHWC + mask_BHW1 * h_BHWC[..., :channels])


def double(x_BHWC: jax.Array) -> jax.Array:
  """Doubles both sides; every pixel becomes 2x2 pixels."""
  batch, height, width, channels = x_BHWC.shape
  parts_B11 = x_BHWC.reshape(batch, height, 1, width, 1, channels)
  wide = jnp.broadcast_to(parts_B11, (batch, height, 2, width, 2, channels))
  return wide.reshape(batch, 2 * height, 2 * width, channels)


@jax.custom_vjp
def bounded(x: jax.Array) -> jax.Array:
  """Clips to [0, 1], with gradients that bring values back from outside.

  The gradient of `jnp.clip` is zero outside, so that values which have left
  [0, 1] would never return. The gradient of a sigmoid is small near black and
  white, and a sigmoid copies neither.
  """
  return jnp.clip(x, 0.0, 1.0)


def _bounded_backward(x, gradient):
  # A step goes against the gradient: a positive gradient lowers the value.
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
