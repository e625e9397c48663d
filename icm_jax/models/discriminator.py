"""Discriminators, which score how canonical an image looks."""

from __future__ import annotations

import jax
from flax import linen as nn

from icm_jax import types
from icm_jax.kernels.convolution import Layer
from icm_jax.models.convolution import ConvStack


def centre(x_BHWC: jax.Array) -> jax.Array:
  """Maps images from [0, 1] to [-2, 2].

  Images in [0, 1] look nearly alike to a network, above all photographs, whose
  pixels are grey on average with a deviation of about a fourth of the range. A
  network learns faster from centred images: on all of MNIST, seed 0, every
  mechanism had its expert after 250 steps instead of 300
  (`experiments/README.md`).
  """
  return 4.0 * x_BHWC - 2.0


class ConvDiscriminator(nn.Module):
  """Seven 3x3 convolutions with three average pools, then two dense layers.

  It is the discriminator of the paper (Sec. 4). At 32x32x1 with 16 features and
  1,024 hidden units it has 1,124,737 parameters. If a side of the images is not
  a multiple of 8, the pools drop the remainder.

  Attributes:
    features: channels at full resolution; doubled after each pool.
    hidden: units of the dense layer.
    norm: "none" (the paper) or "group". `init_state` refuses "batch", with
      which the score of an image would depend on other images.
    centred: whether images are centred first, see `centre`.

  Raises:
    InputError: images are smaller than 8x8 pixels.
  """

  features: int = 16
  hidden: int = 1024
  norm: str = "none"
  centred: bool = False

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    _check_sides(x_BHWC)
    if self.centred:
      x_BHWC = centre(x_BHWC)
    layers = tuple(
      Layer(self.features * 2**level, halve=index == last)
      for level, last in enumerate((2, 1, 1))
      for index in range(last + 1)
    )
    h_BHWF = ConvStack(layers, self.norm)(x_BHWC, train=train)
    h_BF = h_BHWF.reshape(h_BHWF.shape[0], -1)
    h_BF = nn.elu(nn.Dense(self.hidden)(h_BF))
    return nn.Dense(1)(h_BF)[:, 0]


class PatchDiscriminator(nn.Module):
  """A discriminator whose score is the mean of the scores of patches.

  It follows Isola et al. 2017, with mean pools instead of strides. A patch has
  42x42 pixels, which reach into the zero padding of smaller images. The
  discriminator judges whether patches look right, but not whether they fit
  together, and has far fewer parameters than `ConvDiscriminator`.

  Attributes:
    features: channels at full resolution; doubled after each pool.
    hidden: channels of the layer before the last.
    norm: "none" or "group", see `ConvDiscriminator`.

  Raises:
    InputError: images are smaller than 8x8 pixels.
  """

  features: int = 16
  hidden: int = 64
  norm: str = "none"

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    _check_sides(x_BHWC)
    layers = tuple(
      Layer(self.features * 2**level, halve=index == 1)
      for level in range(3)
      for index in range(2)
    )
    layers += (Layer(self.hidden), Layer(1, elu=False))
    h_BHWF = ConvStack(layers, self.norm)(centre(x_BHWC), train=train)
    return h_BHWF.mean(axis=(1, 2, 3))


class PatchGlobalDiscriminator(nn.Module):
  """A discriminator that judges patches and the whole image.

  Its score is the mean of the scores of patches of 32x32 pixels, plus the score
  of two dense layers that see the whole image. Five 3x3 convolutions with two
  mean pools are common to both. With 16 features and 256 hidden units at 64x64
  pixels it has 1.1 million parameters, nearly all of them dense.

  Attributes:
    features: channels at full resolution; doubled after each pool.
    hidden: units of the dense layer.
    norm: "none" or "group", see `ConvDiscriminator`.

  Raises:
    InputError: images are smaller than 8x8 pixels.
  """

  features: int = 16
  hidden: int = 256
  norm: str = "none"

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    _check_sides(x_BHWC)

    def stack(h_BHWF, *layers):
      return ConvStack(layers, self.norm)(h_BHWF, train=train)

    wide = 4 * self.features
    h_BHWF = stack(
      centre(x_BHWC),
      Layer(self.features),
      Layer(self.features, halve=True),
      Layer(2 * self.features),
      Layer(2 * self.features, halve=True),
      Layer(wide),
    )
    patches_B = stack(h_BHWF, Layer(1, elu=False)).mean(axis=(1, 2, 3))
    h_BHWF = stack(h_BHWF, Layer(wide, halve=True))
    h_BF = h_BHWF.reshape(h_BHWF.shape[0], -1)
    h_BF = nn.elu(nn.Dense(self.hidden)(h_BF))
    return patches_B + nn.Dense(1)(h_BF)[:, 0]


def _check_sides(x_BHWC):
  height, width = x_BHWC.shape[1:3]
  if min(height, width) < 8:
    raise types.InputError(
      "A discriminator halves images three times and needs at least 8x8 "
      f"pixels; got {height}x{width}. Choose a larger image size."
    )
