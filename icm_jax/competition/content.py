"""What keeps an expert's output close to its input: terms beside D's score.

A discriminator alone rewards every plausible image, whatever the input was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.competition import expert_axis, losses, winners


class Untouched(NamedTuple):
  """What experts make of canonical images, which they should leave alone.

  Attributes:
    x_BHWC: canonical images.
    y_EBHWC: every expert's output.
    pullback: as of `winners.Restored`.
  """

  x_BHWC: jax.Array
  y_EBHWC: jax.Array
  pullback: Callable[[jax.Array], types.PyTree] | None


def untouched(
  state: types.TrainState, canonical_BHWC: jax.Array, *, setup: types.Setup
) -> Untouched:
  """Applies every expert to canonical images."""
  restored = winners.restore(
    setup.expert,
    state.experts_E,
    state.expert_stats_E,
    canonical_BHWC,
    losers_learn=False,
    mode=setup.expert_map,
  )
  return Untouched(canonical_BHWC, restored.y_EBHWC, restored.pullback)


def changed_by_itself(
  state: types.TrainState, y_EBHWC: jax.Array, *, setup: types.Setup
) -> jax.Array:
  """How much experts change their own outputs, mean squared error, [E, B].

  The way there and back of a cycle needs the mechanism, which nobody has. But
  what is canonical should stay as it is, an expert's own output too.
  """

  def error(params, stats, y_BHWC):
    again_BHWC, _ = setup.expert.apply(params, stats, y_BHWC, train=True)
    return losses.reconstruction_loss(again_BHWC, y_BHWC)

  over = expert_axis.map_leading(error, (0, 0, 0), mode=setup.expert_map)
  return over(state.experts_E, state.expert_stats_E, y_EBHWC)


def criterion(
  state: types.TrainState,
  y_EBHWC: jax.Array,
  canonical: Untouched | None,
  *,
  setup: types.Setup,
) -> jax.Array:
  """What is taken off the experts' scores when winners are chosen, [E, B].

  After the criterion of TCM (Yue et al. 2021), which adds a term for identity
  and one for the cycle to D's.

  Args:
    state: of the run.
    y_EBHWC: outputs.
    canonical: as of `untouched`; only where `criterion_identity` is not 0.
    setup: weights of both terms.
  """
  taken_EB = jnp.zeros(y_EBHWC.shape[:2])
  if setup.criterion_identity:
    error_E = jnp.mean(
      (canonical.y_EBHWC - canonical.x_BHWC[None]) ** 2, axis=(1, 2, 3, 4)
    )
    taken_EB += setup.criterion_identity * error_E[:, None]
  if setup.criterion_cycle:
    taken_EB += setup.criterion_cycle * changed_by_itself(
      state, y_EBHWC, setup=setup
    )
  return taken_EB


def identity_gradient(
  state: types.TrainState,
  canonical: Untouched,
  winner_B: jax.Array,
  wins_E: jax.Array,
  *,
  setup: types.Setup,
) -> types.PyTree:
  """Gradient of the error of winners on canonical images.

  Every canonical image goes to one expert, so that an expert that won much
  learns as much from these; which image that is, chance decided.

  Args:
    state: of the run.
    canonical: as of `untouched`.
    winner_B: int32 in [0, E).
    wins_E: int32.
    setup: `identity` is the weight of the error.
  """
  num_images = winner_B.shape[0]
  y_BHWC = canonical.y_EBHWC[winner_B, jnp.arange(num_images)]

  def objective(y_BHWC):
    error_B = losses.reconstruction_loss(y_BHWC, canonical.x_BHWC)
    return setup.identity * error_B.mean()

  return winners.winners_gradient(
    setup.expert,
    state.experts_E,
    state.expert_stats_E,
    canonical.x_BHWC,
    jax.grad(objective)(y_BHWC),
    winner_B,
    wins_E,
    mode=setup.expert_map,
    pullback=canonical.pullback,
  )
