"""The state of a competition before its first update."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax import rng, types
from icm_jax.competition import check


def init_state(
  key: jax.Array, setup: types.Setup, num_experts: int
) -> types.TrainState:
  """Draws all parameters; every expert starts from a key of its own.

  Args:
    key: of the run, typed; kept in the state.
    setup: networks, optimizers and remedies.
    num_experts: E, at least 1.

  Raises:
    InputError: the parts of the setup do not fit together.
  """
  check.check_setup(setup, num_experts)
  key_E = jax.random.split(rng.stream(key, "experts"), num_experts)
  experts_E, expert_stats_E = jax.vmap(setup.expert.init)(key_E)
  discriminator, stats = setup.discriminator.init(
    rng.stream(key, "discriminator")
  )
  check.check_discriminator_stats(stats)
  state = types.TrainState(
    step=jnp.zeros((), jnp.int32),
    key=key,
    experts_E=experts_E,
    expert_stats_E=expert_stats_E,
    expert_opt_E=jax.vmap(setup.expert_tx.init)(experts_E),
    discriminator=discriminator,
    discriminator_opt=setup.discriminator_tx.init(discriminator),
    memory={},
  )
  return init_memory(state, setup)


def init_memory(
  state: types.TrainState, setup: types.Setup
) -> types.TrainState:
  """Lets every remedy forget what it saw, and start from the state as it is.

  Call it after experts were trained before the competition (`pretrain`).

  Raises:
    InputError: remedies do not fit together.
  """
  return state.replace(memory=setup.through("init", {}, state, setup))
