"""Change and contrast: what an expert may change, and what is not canonical."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from icm_jax import competition, types
from icm_jax.competition import remedies


@pytest.mark.parametrize("losers_learn", [False, True])
def test_change_adds_its_slope_to_the_outputs_that_learn(
  losers_learn, make_batch
):
  batch = make_batch(2, (2, 2, 1))
  x_BHWC = batch.transformed_BHWC
  sign_EB = np.array([[1.0, -1.0], [0.0, 1.0]])
  y_EBHWC = x_BHWC[None] + 0.1 * sign_EB[:, :, None, None, None]
  seen = types.Seen(None, batch, y_EBHWC)
  won = types.Assignment(jnp.array([0, 1]), jnp.array([1, 1]))
  expected = 0.5 / x_BHWC.size * sign_EB
  shape = y_EBHWC.shape
  if not losers_learn:
    expected, shape = expected[[0, 1], [0, 1]], x_BHWC.shape
  result = remedies.change(0.5).cotangent(jnp.ones(shape), None, seen, won)
  expected = expected.reshape(*shape[:-3], 1, 1, 1)
  np.testing.assert_allclose(
    result, np.broadcast_to(1.0 + expected, shape), rtol=1e-6
  )


def test_change_is_the_gradient_of_the_mean_change(
  make_setup, make_state, make_batch
):
  """One expert's step, against the gradient of the written-down loss."""
  rate = 0.1
  plain = make_setup()._replace(
    expert_tx=optax.sgd(rate), discriminator_tx=optax.sgd(rate)
  )
  setup = plain._replace(remedies=(remedies.change(2.0),))
  batch = make_batch()
  state = make_state(plain, num_experts=1)
  step = lambda setup: jax.jit(
    functools.partial(competition.competition_step, setup=setup)
  )(state, batch)[0]

  def mean_change(params_E):
    params = jax.tree.map(lambda a_E: a_E[0], params_E)
    y_BHWC, _ = setup.expert.apply(
      params, {}, batch.transformed_BHWC, train=True
    )
    return 2.0 * jnp.abs(y_BHWC - batch.transformed_BHWC).mean()

  slope_E = jax.jit(jax.grad(mean_change))(state.experts_E)
  expected_E = jax.tree.map(
    lambda a_E, slope_E: a_E - rate * slope_E, step(plain).experts_E, slope_E
  )
  for got, expected in zip(
    jax.tree.leaves(step(setup).experts_E),
    jax.tree.leaves(expected_E),
    strict=True,
  ):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_contrast_trains_the_discriminator_on_transformed_images(
  make_setup, make_state, make_batch
):
  plain = make_setup()
  setup = plain._replace(remedies=(remedies.contrast(0.5),))
  state, batch = make_state(plain), make_batch()
  (before, metrics), (after, more) = (
    jax.jit(functools.partial(competition.competition_step, setup=s))(
      state, batch
    )
    for s in (plain, setup)
  )
  score_B = competition.score(state, batch.transformed_BHWC, setup=plain)
  np.testing.assert_allclose(
    more["loss/discriminator"] - metrics["loss/discriminator"],
    0.5 * np.logaddexp(0.0, score_B).mean(),
    rtol=1e-4,
  )
  # Only the discriminator learns from it.
  for a, b in zip(
    jax.tree.leaves(before.experts_E),
    jax.tree.leaves(after.experts_E),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  assert any(
    not np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(before.discriminator),
      jax.tree.leaves(after.discriminator),
      strict=True,
    )
  )


@pytest.mark.parametrize("name", ["change", "contrast", "places"])
def test_negative_weights_are_refused(name):
  with pytest.raises(types.InputError, match=f"{name}.weight"):
    remedies.REMEDIES[name](-1.0)
