"""The evaluation classifier, which judges images and trains no expert."""

from __future__ import annotations

from flax import linen as nn

from icm_jax.kernels.convolution import Layer
from icm_jax.models import convolution


class ConvClassifier(nn.Module):
  """Three 3x3 convolutions with pools, then two dense layers; [B, K] logits.

  Attributes:
    num_classes: K.
    features: channels at full resolution; doubled after each pool.
    hidden: units of the first dense layer.
    norm: "none"; or "batch" or "group", before the ELU of every convolution.
  """

  num_classes: int
  features: int = 16
  hidden: int = 128
  norm: str = "none"

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    layers = tuple(
      Layer(self.features * 2**level, halve=True) for level in range(3)
    )
    if self.norm == "none":  # Names of parameters are those of saved runs.
      h_BHWF = convolution.Stack(layers)(x_BHWC)
    else:
      h_BHWF = convolution.ConvStack(layers, self.norm)(x_BHWC, train=train)
    h_BF = h_BHWF.reshape(h_BHWF.shape[0], -1)
    return nn.Dense(self.num_classes)(nn.elu(nn.Dense(self.hidden)(h_BF)))
