"""Networks behind the seam `Network(init, apply)`; only here is flax used."""

from icm_jax.models.classifier import ConvClassifier
from icm_jax.models.convolution import is_compiled
from icm_jax.models.discriminator import ConvDiscriminator
from icm_jax.models.expert import ConvExpert
from icm_jax.models.network import NORMS, from_linen
from icm_jax.models.rim import RIMCell
from icm_jax.models.sequence import (
  SEQUENCE_MODELS,
  Activity,
  SequenceNetwork,
  make_sequence_model,
)

__all__ = (
  "NORMS",
  "SEQUENCE_MODELS",
  "Activity",
  "ConvClassifier",
  "ConvDiscriminator",
  "ConvExpert",
  "RIMCell",
  "SequenceNetwork",
  "from_linen",
  "is_compiled",
  "make_sequence_model",
)
