"""Training of experts before they compete."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest

from icm_jax import competition


@pytest.mark.parametrize("mode", ["unroll", "vmap"])
def test_identity_start_learns_copying_and_keeps_finished_experts(
  mode, make_setup, make_state, make_batch
):
  setup = make_setup(expert_map=mode)
  state = start = make_state(setup)
  x_BHWC = make_batch().transformed_BHWC
  learning_E = jnp.array([True, False, True])
  step = jax.jit(functools.partial(competition.pretrain_step, setup=setup))
  _, first_E = step(state, x_BHWC, x_BHWC, learning_E)
  for _ in range(60):
    state, mse_E = step(state, x_BHWC, x_BHWC, learning_E)
  assert (mse_E[learning_E] < 0.6 * first_E[learning_E]).all()
  assert mse_E[1] == first_E[1]
  chex.assert_trees_all_equal(
    jax.tree.map(lambda a: a[1], (start.experts_E, start.expert_opt_E)),
    jax.tree.map(lambda a: a[1], (state.experts_E, state.expert_opt_E)),
  )
  assert int(state.step) == 0
