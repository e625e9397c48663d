"""The paper's expert: an image-to-image network that keeps the shape."""

from __future__ import annotations

from flax import linen as nn

from icm_jax.models import network


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
    h_BHWF = x_BHWC
    for _ in range(4):
      h_BHWF = nn.Conv(self.features, (3, 3))(h_BHWF)
      h_BHWF = nn.elu(network.Norm(self.norm)(h_BHWF, train=train))
    return nn.sigmoid(nn.Conv(x_BHWC.shape[-1], (3, 3))(h_BHWF))
