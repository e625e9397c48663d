"""The classifier that judges restored images; it takes no part in learning."""

from __future__ import annotations

from flax import linen as nn


class ConvClassifier(nn.Module):
  """Three 3x3 convolutions with pools, two dense layers; [B, K] logits."""

  num_classes: int
  features: int = 16
  hidden: int = 128

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    del train
    h_BHWF = x_BHWC
    for level in range(3):
      h_BHWF = nn.elu(nn.Conv(self.features * 2**level, (3, 3))(h_BHWF))
      h_BHWF = nn.avg_pool(h_BHWF, (2, 2), strides=(2, 2))
    h_BF = h_BHWF.reshape(h_BHWF.shape[0], -1)
    return nn.Dense(self.num_classes)(nn.elu(nn.Dense(self.hidden)(h_BF)))
