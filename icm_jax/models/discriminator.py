"""The paper's discriminator: how canonical an image looks."""

from __future__ import annotations

from flax import linen as nn

from icm_jax.models import network


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
    h_BHWF = x_BHWC
    for level, convolutions in enumerate((3, 2, 2)):
      for _ in range(convolutions):
        h_BHWF = nn.Conv(self.features * 2**level, (3, 3))(h_BHWF)
        h_BHWF = nn.elu(network.Norm(self.norm)(h_BHWF, train=train))
      h_BHWF = nn.avg_pool(h_BHWF, (2, 2), strides=(2, 2))
    h_BF = h_BHWF.reshape(h_BHWF.shape[0], -1)
    h_BF = nn.elu(nn.Dense(self.hidden)(h_BF))
    return nn.Dense(1)(h_BF)[:, 0]
