"""Networks behind the seam `Network(init, apply)`; only here is flax used."""

from icm_jax.models.by_name import (
  DISCRIMINATORS,
  EXPERTS,
  make_discriminator,
  make_expert,
)
from icm_jax.models.classifier import ConvClassifier
from icm_jax.models.discriminator import ConvDiscriminator, PatchDiscriminator
from icm_jax.models.expert import ConvExpert
from icm_jax.models.network import from_linen
from icm_jax.models.normalisation import NORMS
from icm_jax.models.residual import DilatedExpert, UNetExpert
from icm_jax.models.rim import RIMCell
from icm_jax.models.sequence import (
  SEQUENCE_MODELS,
  Activity,
  SequenceNetwork,
  make_sequence_model,
)

__all__ = (
  "DISCRIMINATORS",
  "EXPERTS",
  "NORMS",
  "SEQUENCE_MODELS",
  "Activity",
  "ConvClassifier",
  "ConvDiscriminator",
  "ConvExpert",
  "DilatedExpert",
  "PatchDiscriminator",
  "RIMCell",
  "SequenceNetwork",
  "UNetExpert",
  "from_linen",
  "make_discriminator",
  "make_expert",
  "make_sequence_model",
)
