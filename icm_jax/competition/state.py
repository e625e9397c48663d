"""The state of a competition before its first update, and its serialisation."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import serialization
from jax import export

from icm_jax import rng, types
from icm_jax.competition import check


def init_state(
  key: jax.Array, setup: types.Setup, num_experts: int
) -> types.TrainState:
  """Draws all parameters; every expert has a key of its own.

  Args:
    key: typed key of the run; kept in the state.
    setup: networks, optimizers and remedies.
    num_experts: E, at least 1.

  Returns:
    The state before the first update.

  Raises:
    InputError: the key is not typed, or the parts of the setup do not fit
      together.
  """
  check.check_key(key)
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
  """Resets the memory of every remedy to fit the state's parameters.

  Call it when experts were trained before the competition (`pretrain_step`).

  Args:
    state: state whose parameters are kept.
    setup: setup of the run.

  Raises:
    InputError: remedies do not fit together.
  """
  return state.replace(memory=setup.through("init", {}, state, setup))


def _to_state_dict(state: types.TrainState) -> dict[str, Any]:
  """Returns the fields as nested dicts, with the typed key as its numbers."""
  fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
  fields["key"] = jax.random.key_data(state.key)
  return {k: serialization.to_state_dict(v) for k, v in fields.items()}


def _from_state_dict(
  state: types.TrainState, fields: dict[str, Any]
) -> types.TrainState:
  """Returns a state of the same structure, from `_to_state_dict`'s result."""
  read = {
    name: serialization.from_state_dict(getattr(state, name), value)
    for name, value in fields.items()
    if name != "key"
  }
  impl = jax.random.key_impl(state.key)
  key = jax.random.wrap_key_data(jnp.asarray(fields["key"]), impl=impl)
  return state.replace(key=key, **read)


serialization.register_serialization_state(
  types.TrainState, _to_state_dict, _from_state_dict
)
export.register_pytree_node_serialization(
  types.TrainState,
  serialized_name="icm_jax.TrainState",
  serialize_auxdata=lambda _: b"",
  deserialize_auxdata=lambda _: (),
)
export.register_namedtuple_serialization(
  types.Batch, serialized_name="icm_jax.Batch"
)
