"""Averages of the parameters over recent steps, by which images are restored.

The competition keeps moving: as the discriminator learns, a few images change
hands from step to step, and the experts swing around what they have learned.
The averages do neither.
"""

from __future__ import annotations

import jax

from icm_jax import types
from icm_jax.competition import expert_axis


def update(
  state: types.TrainState, moved_E: jax.Array, steps: float
) -> types.TrainState:
  """Moves the averages towards the parameters of a step.

  Args:
    state: after the update of its step.
    moved_E: bool, experts that were relocated in it; theirs start again.
    steps: memory of the averages. Up to 1 they equal the parameters.
  """
  rate = 1.0 / max(steps, 1.0)

  def towards(average, current):
    return jax.tree.map(
      lambda a, b: (1.0 - rate) * a + rate * b, average, current
    )

  average_E = towards(state.average_experts_E, state.experts_E)
  return state.replace(
    average_experts_E=expert_axis.select(moved_E, state.experts_E, average_E),
    average_discriminator=towards(
      state.average_discriminator, state.discriminator
    ),
  )


def restart(state: types.TrainState) -> types.TrainState:
  """Sets the averages to the parameters as they are."""
  return state.replace(
    average_experts_E=jax.tree.map(lambda a: a.copy(), state.experts_E),
    average_discriminator=jax.tree.map(lambda a: a.copy(), state.discriminator),
  )
