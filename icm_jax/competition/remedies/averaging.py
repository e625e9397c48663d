"""Restoring by averages of the parameters over recent steps.

The competition never comes to rest: as the discriminator learns, the winners of
a few images change from step to step, and the parameters of experts oscillate.
Averages of the parameters are steady.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import export

from icm_jax import types
from icm_jax.competition import expert_axis
from icm_jax.competition.remedies import ranges


class Averages(NamedTuple):
  """Memory of `averages`.

  Attributes:
    experts_E: averaged parameters of the experts.
    discriminator: averaged parameters of the discriminator.
  """

  experts_E: types.PyTree
  discriminator: types.PyTree


export.register_namedtuple_serialization(
  Averages, serialized_name="icm_jax.Averages"
)


def averages(steps: float) -> types.Remedy:
  """Restores images outside training by averages of the parameters.

  Args:
    steps: time constant of the averages in steps, at least 1; with 1 they equal
      the parameters.

  Raises:
    InputError: `steps` is below 1.
  """
  ranges.check("averages.steps", steps, least=1)
  rate = 1.0 / steps

  def towards(average, current):
    return jax.tree.map(
      lambda a, b: (1.0 - rate) * a + rate * b, average, current
    )

  def init(memory, state, setup):
    del setup
    start = Averages(state.experts_E, state.discriminator)
    # Copies, because a step that donates its state may not get a buffer twice.
    return {**memory, "averages": jax.tree.map(lambda a: a.copy(), start)}

  def after(state, seen, won):
    del seen, won
    old = state.memory["averages"]
    new = Averages(
      towards(old.experts_E, state.experts_E),
      towards(old.discriminator, state.discriminator),
    )
    return state.remember("averages", new)

  def copied(memory, state, moved_E, donor_E):
    del donor_E
    old = memory["averages"]
    experts_E = expert_axis.select(moved_E, state.experts_E, old.experts_E)
    return {**memory, "averages": old._replace(experts_E=experts_E)}

  def test_state(state):
    return state.replace(**state.memory["averages"]._asdict())

  return types.Remedy(
    "averages", init=init, after=after, copied=copied, test_state=test_state
  )
