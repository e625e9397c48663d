"""Losses and assignments, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax.competition import assign, losses


def test_assignment_by_hand():
  score_EB = jnp.array([[1.0, 2.0, 0.0], [3.0, 2.0, -1.0]])
  won = assign.assign_winners(score_EB)
  np.testing.assert_array_equal(won.winner_B, [1, 0, 0])  # The last is a tie.
  np.testing.assert_array_equal(won.wins_E, [2, 1])


def test_nan_merits_lose():
  nan = jnp.nan
  score_EB = jnp.array([[nan, 1.0, nan], [-9.0, nan, nan]])
  won = assign.assign_winners(score_EB)
  np.testing.assert_array_equal(won.winner_B, [1, 0, 0])
  np.testing.assert_array_equal(won.wins_E, [2, 1])


def test_losses_by_hand():
  half = jnp.log(2.0)
  np.testing.assert_allclose(losses.expert_loss(jnp.zeros(2)), [half, half])
  assert float(losses.expert_loss(jnp.array(-1e4))) == 1e4  # Still finite.
  by_weight = lambda *weight: losses.discriminator_loss(
    jnp.array([[0.0], [50.0]]), jnp.zeros(1), jnp.array(weight)[:, None]
  )
  np.testing.assert_allclose(by_weight(0.5, 0.5), half + (half + 50.0) / 2)
  np.testing.assert_allclose(by_weight(0.0, 1.0), half + 50.0)
  np.testing.assert_allclose(
    losses.reconstruction_loss(
      jnp.zeros((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 0.5)
    ),
    [0.25],
  )


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.25, 0.75]])
def test_the_gradients_of_both_losses_differ_by_a_factor(weights):
  score_EB = jnp.array([[-30.0, 0.3, 2.0], [-40.0, -0.1, 20.0]])
  weight_EB = jnp.broadcast_to(jnp.array(weights)[:, None], score_EB.shape)
  slope_EB = jax.grad(losses.discriminator_loss)(
    score_EB, jnp.zeros(3), weight_EB
  )
  ratio_EB = losses.slope_ratio(score_EB, weight_EB)
  expected_EB = jax.grad(lambda s: losses.expert_loss(s).sum() / 3)(score_EB)
  np.testing.assert_allclose(ratio_EB * slope_EB, expected_EB, rtol=1e-5)
  assert np.isfinite(losses.slope_ratio(jnp.array(-1e4), 0.5))
