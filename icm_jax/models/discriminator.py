"""The paper's discriminator: how canonical an image looks."""

from __future__ import annotations

from flax import linen as nn

from icm_jax.models import convolution, network


class ConvDiscriminator(nn.Module):
  """Seven 3x3 convolutions with three average pools, then two dense layers.

  Sec. 4 of the paper. At 32x32x1 with 16 features and 1,024 hidden units it
  has 1,124,737 parameters. Images need at least 8x8 pixels; a side that 8 does
  not divide loses its remainder in the pools.

  Attributes:
    features: channels at full resolution; doubled after each pool.
    hidden: units of the dense layer.
    norm: "none" (the paper) or "group". "batch" is refused: the score of an
      image would depend on the images beside it.
  """

  features: int = 16
  hidden: int = 1024
  norm: str = "none"

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    layers = tuple(
      convolution.Layer(self.features * 2**level, halve=index == last)
      for level, last in enumerate((2, 1, 1))
      for index in range(last + 1)
    )
    h_BHWF = network.ConvStack(layers, self.norm)(x_BHWC, train=train)
    h_BF = h_BHWF.reshape(h_BHWF.shape[0], -1)
    h_BF = nn.elu(nn.Dense(self.hidden)(h_BF))
    return nn.Dense(1)(h_BF)[:, 0]
