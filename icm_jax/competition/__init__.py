"""How experts compete: everything that a training loop needs."""

from icm_jax.competition import remedies
from icm_jax.competition.assign import assign_winners
from icm_jax.competition.paper import paper_step
from icm_jax.competition.pretrain import pretrain_step
from icm_jax.competition.restore import Restored, restore, score
from icm_jax.competition.state import init_memory, init_state
from icm_jax.competition.step import competition_step
from icm_jax.types import (
  Assignment,
  Batch,
  InputError,
  Network,
  Remedy,
  Seen,
  Setup,
  TrainState,
)

__all__ = (
  "Assignment",
  "Batch",
  "InputError",
  "Network",
  "Remedy",
  "Restored",
  "Seen",
  "Setup",
  "TrainState",
  "assign_winners",
  "competition_step",
  "init_memory",
  "init_state",
  "paper_step",
  "pretrain_step",
  "remedies",
  "restore",
  "score",
)
