"""Recurrent independent mechanisms: the cell, its tasks and its experiments."""

from icm_jax.rim.cell import RIMCell
from icm_jax.rim.networks import (
  NETWORKS,
  Activity,
  SequenceNetwork,
  make_network,
)

__all__ = (
  "NETWORKS",
  "Activity",
  "RIMCell",
  "SequenceNetwork",
  "make_network",
)
