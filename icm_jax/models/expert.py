"""The paper's expert: an image-to-image network that keeps the shape."""

from __future__ import annotations

from flax import linen as nn

from icm_jax.models import convolution, network


class ConvExpert(nn.Module):
  """Four 3x3 convolutions and one back to the image (Sec. 4 of the paper).

  It sees 11x11 pixels, so that it can undo shifts of up to 5. With 32 features
  and one channel it has 28,609 parameters, 256 of them in the normalisation.

  Attributes:
    features: channels of the hidden layers.
    norm: "batch" (the paper), "group" or "none".
  """

  features: int = 32
  norm: str = "batch"

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    layers = (convolution.Layer(self.features),) * 4
    layers += (convolution.Layer(x_BHWC.shape[-1], elu=False),)
    return nn.sigmoid(network.ConvStack(layers, self.norm)(x_BHWC, train=train))
