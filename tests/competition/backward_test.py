"""The experts' gradient, over won images only and over all images."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from icm_jax import types
from icm_jax.competition import backward, expert_axis

jit_groups = jax.jit(backward.group_by_winner, static_argnames="size")


@pytest.mark.parametrize(
  ("norm", "mode"),
  [
    *(("none", mode) for mode in expert_axis.FORMS),
    ("batch", "unroll"),
    ("batch", "vmap"),
  ],
)
@pytest.mark.parametrize(
  "winner_B",
  [[0, 1, 2, 0, 1, 2, 0], [1] * 7, [2, 2, 2, 2, 2, 0, 0]],
  ids=["even", "one wins all", "one wins none"],
)
def test_winners_gradients_equal_those_of_the_masked_form(
  norm, mode, winner_B, make_setup, make_state, make_batch
):
  setup = make_setup(norm=norm, expert_map=mode)
  state, x_BHWC = make_state(setup), make_batch(7).transformed_BHWC
  winner_B = jnp.array(winner_B)
  won = types.Assignment(winner_B, jnp.bincount(winner_B, length=3))
  cotangent_BHWC = jax.random.normal(jax.random.key(1), x_BHWC.shape)

  def masked(experts_E):
    y_EBHWC, _ = jax.vmap(
      lambda p, s: setup.expert.apply(p, s, x_BHWC, train=True)
    )(experts_E, state.expert_stats_E)
    return jnp.sum(y_EBHWC[winner_B, jnp.arange(7)] * cotangent_BHWC)

  @jax.jit
  def both(state):
    outputs = backward.apply_experts(state, x_BHWC, setup=setup)
    grads_E = backward.experts_gradient(
      state, x_BHWC, outputs, cotangent_BHWC, won, setup=setup
    )
    return grads_E, jax.grad(masked)(state.experts_E)

  grads_E, expected_E = both(state)
  chex.assert_trees_all_close(grads_E, expected_E, atol=2e-5)


@pytest.mark.parametrize(
  ("num_images", "num_experts", "size"), [(1, 4, 4), (11, 3, 4), (9, 12, 2)]
)
@hypothesis.settings(deadline=None, max_examples=30, database=None)
@hypothesis.given(data=st.data())
def test_groups_contain_every_image_once_and_one_expert_each(
  num_images, num_experts, size, data
):
  winner_B = np.array(
    data.draw(
      st.lists(
        st.integers(0, num_experts - 1),
        min_size=num_images,
        max_size=num_images,
      )
    )
  )
  groups = jit_groups(
    winner_B, np.bincount(winner_B, minlength=num_experts), size=size
  )
  seen = []
  for expert, image_S in zip(*map(np.asarray, groups), strict=True):
    real = image_S[image_S < num_images]
    assert (winner_B[real] == expert).all()
    seen += real.tolist()
  assert sorted(seen) == list(range(num_images))
