"""How experts compete. Everything a training loop of your own needs."""

from icm_jax.competition.assign import Assignment, assign_winners
from icm_jax.competition.identity import identity_step
from icm_jax.competition.relocation import relocate
from icm_jax.competition.step import competition_step, init_state
from icm_jax.types import (
  Batch,
  InputError,
  Network,
  Relocation,
  Setup,
  TrainState,
)

__all__ = (
  "Assignment",
  "Batch",
  "InputError",
  "Network",
  "Relocation",
  "Setup",
  "TrainState",
  "assign_winners",
  "competition_step",
  "identity_step",
  "init_state",
  "relocate",
)
