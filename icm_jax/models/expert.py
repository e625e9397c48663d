"""The paper's expert, a network from images to images of the same shape."""

from __future__ import annotations

from flax import linen as nn

from icm_jax.kernels.convolution import Layer
from icm_jax.models import convolution

# The sigmoid compresses black and white, so that a copying expert scales its
# argument by this factor. Of the factors from 4 to 12, it comes nearest to a
# copy on all ten of the paper's distortions of digits, with a mean squared
# error of 0.0014.
_COPY_GAIN = 7.0


class ConvExpert(nn.Module):
  """Four 3x3 convolutions and one back to the image (Sec. 4 of the paper).

  Its receptive field has 11x11 pixels, so that it can undo shifts of up to 5.
  With 32 features and one channel it has 28,609 parameters, 256 of them in the
  normalisation.

  Attributes:
    features: channels of the hidden layers.
    norm: "batch" (the paper), "group" or "none".
    copies: whether the output starts as a copy of the input, by construction;
      needs the norm "none", and at least as many features as channels.
  """

  features: int = 32
  norm: str = "batch"
  copies: bool = False

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    hidden = (Layer(self.features),) * 4
    layers = (*hidden, Layer(x_BHWC.shape[-1], elu=False))
    y_BHWC = convolution.ConvStack(layers, self.norm, self.copies)(
      x_BHWC, train=train
    )
    if self.copies:
      y_BHWC = _COPY_GAIN * (y_BHWC - 0.5)
    return nn.sigmoid(y_BHWC)
