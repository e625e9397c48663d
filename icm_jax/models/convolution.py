"""Flax modules of 3x3 convolutions, which use `icm_jax.kernels`."""

from __future__ import annotations

from flax import linen as nn

from icm_jax import types
from icm_jax.kernels import convolution
from icm_jax.models import normalisation


class Stack(nn.Module):
  """Layers one after the other, [B, H, W, C] -> [B, H', W', features].

  Its parameters are `{"layers": {"layer_0": {"kernel", "bias"}, ...}}`.

  Attributes:
    layers: layers of the stack, at least one.
    copies: whether the output starts as a copy of the input, see
      `convolution.init_copying`.
    gain: factor of the initial kernels; not used if `copies` is True.
  """

  layers: tuple[convolution.Layer, ...]
  copies: bool = False
  gain: float = 1.0

  @nn.compact
  def __call__(self, x_BHWC):
    channels = x_BHWC.shape[-1]
    if self.copies:
      parameters = self.param(
        "layers", convolution.init_copying, channels, self.layers
      )
    else:
      parameters = self.param(
        "layers",
        convolution.init_parameters,
        channels,
        self.layers,
        self.gain,
      )
    return convolution.stack(x_BHWC, parameters, self.layers)


class ConvStack(nn.Module):
  """A stack of convolutions with normalisation before every ELU.

  Attributes:
    layers: layers of the stack.
    norm: name of the normalisation, see `NormElu`; "none" is none.
    copies: whether the output starts as a copy of the input; needs the norm
      "none".

  Raises:
    InputError: `copies` is True with a normalisation.
  """

  layers: tuple[convolution.Layer, ...]
  norm: str
  copies: bool = False

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    if self.norm == "none":
      return Stack(self.layers, self.copies)(x_BHWC)
    if self.copies:
      raise types.InputError(
        "Networks that copy by construction have no normalisation, which "
        f"would undo it; got {self.norm!r}, expected 'none'."
      )
    for layer in self.layers:
      alone = layer._replace(elu=False, halve=False)
      x_BHWC = Stack((alone,))(x_BHWC)
      if layer.elu:
        x_BHWC = normalisation.NormElu(self.norm)(x_BHWC, train=train)
      if layer.halve:
        x_BHWC = convolution.halve(x_BHWC)
    return x_BHWC
