"""Networks behind the seam `Network(init, apply)`; only here is flax used."""

from icm_jax.models.classifier import ConvClassifier
from icm_jax.models.convolution import is_compiled
from icm_jax.models.discriminator import ConvDiscriminator
from icm_jax.models.expert import ConvExpert
from icm_jax.models.network import NORMS, from_linen

__all__ = (
  "NORMS",
  "ConvClassifier",
  "ConvDiscriminator",
  "ConvExpert",
  "from_linen",
  "is_compiled",
)
