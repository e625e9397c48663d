"""Networks in Flax, as records `Network(init, apply)`."""

from icm_jax.models.by_name import (
  DISCRIMINATORS,
  EXPERTS,
  make_discriminator,
  make_expert,
)
from icm_jax.models.classifier import ConvClassifier
from icm_jax.models.convolution import ConvStack, Stack
from icm_jax.models.discriminator import ConvDiscriminator, PatchDiscriminator
from icm_jax.models.expert import ConvExpert
from icm_jax.models.network import from_linen
from icm_jax.models.normalisation import NORMS
from icm_jax.models.residual import DilatedExpert, UNetExpert

__all__ = (
  "DISCRIMINATORS",
  "EXPERTS",
  "NORMS",
  "ConvClassifier",
  "ConvDiscriminator",
  "ConvExpert",
  "ConvStack",
  "DilatedExpert",
  "PatchDiscriminator",
  "Stack",
  "UNetExpert",
  "from_linen",
  "make_discriminator",
  "make_expert",
)
