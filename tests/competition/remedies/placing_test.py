"""Places: the bonus for images that are changed where others were."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import competition, types
from icm_jax.competition import remedies
from icm_jax.competition.remedies import placing

CELLS = placing.CELLS**2


def test_changes_by_hand():
  x_BHWC = jnp.zeros((2, 8, 12, 1))
  # Expert 1 changes the first cell (2x3 pixels) of the second image.
  y_EBHWC = jnp.zeros((2, 2, 8, 12, 1)).at[1, 1, :2, :3].set(0.5)
  change_BF = placing.changes(x_BHWC, y_EBHWC)
  expected_BF = np.zeros((2, 2 * CELLS))
  expected_BF[1, CELLS] = 0.5
  np.testing.assert_allclose(change_BF, expected_BF)


def test_pixels_that_do_not_divide_are_left_out():
  x_BHWC, y_EBHWC = jnp.zeros((1, 9, 5, 1)), jnp.zeros((1, 1, 9, 5, 1))
  change_BF = placing.changes(x_BHWC, y_EBHWC.at[:, :, 8:].set(1.0))
  np.testing.assert_array_equal(change_BF, np.zeros((1, CELLS)))


def test_small_images_are_refused_with_the_first_step(
  make_setup, make_state, make_batch
):
  with pytest.raises(types.InputError, match="at least 4x4 pixels; got 3x8"):
    placing.changes(jnp.zeros((1, 3, 8, 1)), jnp.zeros((2, 1, 3, 8, 1)))


def test_the_nearest_expert_gets_the_best_bonus():
  known_BF = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
  place_EF = jnp.array([[1.0, -1.0], [0.0, 0.0]])
  np.testing.assert_allclose(
    placing.bonus(place_EF, known_BF, 0.5), [[0.0, -2.0], [-0.5, -0.5]]
  )


def test_experts_remember_where_the_images_that_they_won_are_changed(
  make_setup, make_state, make_batch
):
  setup = make_setup(remedies=(remedies.places(1e-6),))
  state, batch = make_state(setup), make_batch(7)
  step = jax.jit(functools.partial(competition.competition_step, setup=setup))
  after, metrics = step(state, batch)
  memory, wins_E = after.memory["places"], metrics["competition/wins_E"]
  moved_E = np.abs(memory.place_EF).sum(axis=1) > 0
  np.testing.assert_array_equal(moved_E, np.asarray(wins_E) > 0)
  restored = competition.restore(
    state, batch.transformed_BHWC, setup=make_setup()
  )
  change_BF = placing.changes(batch.transformed_BHWC, restored.output_EBHWC)
  np.testing.assert_allclose(memory.mean_F, change_BF.mean(axis=0), rtol=1e-4)
  np.testing.assert_allclose(
    memory.deviation_F, change_BF.std(axis=0), rtol=1e-3, atol=1e-6
  )


def test_places_decide_outside_training_too(make_setup, make_state, make_batch):
  setup = make_setup(remedies=(remedies.places(1e4),))
  state, x_BHWC = make_state(setup), make_batch(4).transformed_BHWC
  plain = competition.restore(state, x_BHWC, setup=make_setup())
  change_BF = placing.changes(x_BHWC, plain.output_EBHWC)
  # Expert 2 remembers images that are changed like the first, others never do.
  mean_F, deviation_F = change_BF.mean(axis=0), change_BF.std(axis=0)
  known_F = (change_BF[0] - mean_F) / (deviation_F + 1e-6)
  memory = placing.Places(
    jnp.stack([known_F + 9.0, known_F - 9.0, known_F]), mean_F, deviation_F
  )
  restored = competition.restore(
    state.remember("places", memory), x_BHWC, setup=setup
  )
  assert restored.winner_B[0] == 2


def test_copies_remember_what_their_donors_do():
  remedy = remedies.places(1.0)
  size = 3 * CELLS
  # Numbers tell the expert whose changes they describe.
  about_F = jnp.repeat(jnp.arange(3.0), CELLS)
  memory = placing.Places(
    10.0 * jnp.arange(3.0)[:, None] + about_F[None], about_F, 1.0 + about_F
  )
  moved = remedy.copied(
    {"places": memory},
    None,
    jnp.array([False, False, True]),
    jnp.array([2, 2, 0]),
  )["places"]
  expected_F = np.repeat([0.0, 1.0, 0.0], CELLS)
  assert moved.place_EF.shape == (3, size)
  for row, own in zip(moved.place_EF, (0.0, 10.0, 0.0), strict=True):
    np.testing.assert_array_equal(row, own + expected_F)
  np.testing.assert_array_equal(moved.mean_F, expected_F)
  np.testing.assert_array_equal(moved.deviation_F, 1.0 + expected_F)
