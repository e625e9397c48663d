"""Signatures: the bonus for images with familiar scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import competition
from icm_jax.competition import assign, remedies
from icm_jax.competition.remedies import signatures

# Experts 0 and 1 are equally good at both mechanisms. Six more experts, which
# have other mechanisms, fail differently at each of the two.
SCORE_ME = np.array([[3, 3, 0, 0, 0, -2, -2, -2], [3, 3, -2, -2, -2, 0, 0, 0]])


def share(weight, *, steps=150, num_images=32):
  """Returns the share of a mechanism's images that its main expert wins."""

  @jax.jit
  def step(signature_EE, key):
    mechanism_key, content_key = jax.random.split(key)
    mechanism_B = jax.random.randint(mechanism_key, (num_images,), 0, 2)
    content_EB = jax.random.normal(content_key, (8, num_images))
    score_EB = jnp.asarray(SCORE_ME, jnp.float32)[mechanism_B].T + content_EB
    merit_EB = score_EB + signatures.bonus(signature_EE, score_EB, weight)
    winner_B = assign.assign_winners(merit_EB).winner_B
    return (
      signatures.remember(signature_EE, score_EB, winner_B),
      mechanism_B,
      winner_B,
    )

  wins_EM = np.zeros((8, 2))
  signature_EE = jnp.zeros((8, 8))
  for index, key in enumerate(jax.random.split(jax.random.key(0), steps)):
    signature_EE, mechanism_B, winner_B = step(signature_EE, key)
    if index >= steps - 20:
      np.add.at(wins_EM, (winner_B, mechanism_B), 1)
  return wins_EM.max(axis=0) / wins_EM.sum(axis=0), wins_EM.argmax(axis=0)


def test_two_experts_that_share_two_mechanisms_part():
  share_M, _ = share(0.0)
  assert (share_M < 0.6).all()
  share_M, main_M = share(4.0)
  assert (share_M > 0.9).all()
  assert sorted(main_M) == [0, 1]


def test_distances_by_hand():
  signature_EE = jnp.array([[1.0, 0.0, 9.0], [0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
  distance_EE = signatures.distance(
    signature_EE, jnp.array([True, True, False])
  )
  np.testing.assert_allclose(
    distance_EE, [[0.0, 2.5, 0.0], [2.5, 0.0, 2.5], [0.0, 2.5, 0.0]]
  )


def test_bonus_by_hand():
  score_EB = jnp.array([[1.0, 3.0], [8.0, 2.0]])  # Standardised: -1, 1; 1, -1.
  signature_EE = jnp.array([[-1.0, 1.0], [0.0, 0.0]])
  np.testing.assert_allclose(
    signatures.bonus(signature_EE, score_EB, 0.5),
    -0.5 * np.array([[0.0, 4.0], [1.0, 1.0]]),
    atol=1e-6,
  )


def test_bonus_does_not_depend_on_the_scale_of_scores():
  keys = jax.random.split(jax.random.key(1))
  score_EB = jax.random.normal(keys[0], (5, 7))
  signature_EE = jax.random.normal(keys[1], (5, 5))
  np.testing.assert_allclose(
    signatures.bonus(signature_EE, score_EB, 2.0),
    signatures.bonus(signature_EE, 3.0 * score_EB - 10.0, 2.0),
    rtol=1e-4,
  )


def test_equal_scores_give_no_preference():
  bonus_EB = signatures.bonus(jnp.zeros((3, 3)), jnp.ones((3, 1)), 2.0)
  np.testing.assert_array_equal(bonus_EB, jnp.zeros((3, 1)))


def test_signatures_are_means_over_won_images():
  score_EB = jnp.array([[1.0, 3.0, 1.0, 3.0], [4.0, 4.0, 0.0, 0.0]])
  winner_B = jnp.array([0, 0, 0, 0])
  start_EE = jnp.array([[0.5, 0.5], [0.1, -0.1]])
  # The batch has four images, and an equal share of 20 steps has 40.
  expected_EE = np.array([0.5, 0.5]) * 0.9
  after_EE = signatures.remember(start_EE, score_EB, winner_B)
  np.testing.assert_allclose(after_EE[0], expected_EE, rtol=1e-6)
  np.testing.assert_array_equal(after_EE[1], start_EE[1])


def test_copies_have_their_donors_signature():
  start = signatures.Signatures(
    jnp.arange(9.0).reshape(3, 3), jnp.arange(3.0), 1.0 + jnp.arange(3.0)
  )
  moved = signatures.move(
    start, jnp.array([False, False, True]), jnp.array([2, 2, 0])
  )
  expected = [[0, 1, 0], [3, 4, 3], [0, 1, 0]], [0, 1, 0], [1, 2, 1]
  for value, right in zip(moved, expected, strict=True):
    np.testing.assert_array_equal(value, right)


def test_images_with_infinite_scores_are_not_remembered():
  score_EB = jnp.array([[1.0, 3.0, jnp.nan], [4.0, 0.0, jnp.inf]])
  winner_B = jnp.array([0, 0, 0])
  start_EE = jnp.array([[0.5, 0.5], [0.1, -0.1]])
  after_EE = signatures.remember(start_EE, score_EB, winner_B)
  assert np.isfinite(after_EE).all()
  # Two of three images are remembered; an equal share of 20 steps has 30.
  mean_E = np.array([0.0, 0.0])
  expected_E = start_EE[0] + 2 / 30 * (mean_E - start_EE[0])
  np.testing.assert_allclose(after_EE[0], expected_E, rtol=1e-6)


@pytest.mark.parametrize("weight", [1e-6, 50.0])
def test_signatures_decide_which_expert_wins(
  weight, make_setup, make_state, make_batch
):
  setup = make_setup(remedies=(remedies.signature(weight),))
  # Only expert 0 has a signature near such scores; the others never match.
  start_EE = jnp.array([[0.0] * 3, [9.0] * 3, [9.0] * 3])
  state = make_state(setup)
  start = state.memory["signature"]._replace(signature_EE=start_EE)
  state = state.remember("signature", start)
  step = jax.jit(functools.partial(competition.competition_step, setup=setup))
  after, metrics = step(state, make_batch(7))
  wins_E = np.asarray(metrics["competition/wins_E"])
  assert wins_E.sum() == 7
  after_EE = after.memory["signature"].signature_EE
  if weight > 1:
    assert wins_E[0] == 7
    assert (after_EE[0] != start_EE[0]).any()
    np.testing.assert_array_equal(after_EE[1:], start_EE[1:])
  else:
    assert wins_E[0] < 7


def test_signatures_decide_outside_training_by_recent_statistics(
  make_setup, make_state, make_batch
):
  x_BHWC = make_batch(5).transformed_BHWC
  setups = [
    make_setup(remedies=(remedies.signature(1.0, weight),))
    for weight in (0.0, 50.0)
  ]
  state = make_state(setups[0])
  alone, steered = (
    competition.restore(state, x_BHWC, setup=setup) for setup in setups
  )
  mean_E, deviation_E = jnp.array([1.0, -1.0, 0.0]), jnp.array([0.5, 1.0, 2.0])
  # The signature of expert 2 is the standardised score of the first image.
  known_E = (alone.score_EB[:, 0] - mean_E) / deviation_E
  memory = signatures.Signatures(
    jnp.stack([known_E + 9.0, known_E + 9.0, known_E]), mean_E, deviation_E
  )
  state = state.remember("signature", memory)
  alone, steered = (
    competition.restore(state, x_BHWC, setup=setup) for setup in setups
  )
  assert steered.winner_B[0] == 2
  np.testing.assert_allclose(
    steered.score_EB[2, 0], alone.score_EB[2, 0], rtol=1e-5
  )
  assert (steered.score_EB[:2] < alone.score_EB[:2] - 100.0).all()


def test_recent_statistics_follow_the_scores(
  make_setup, make_state, make_batch
):
  setup = make_setup(remedies=(remedies.signature(1.0),))
  step = jax.jit(functools.partial(competition.competition_step, setup=setup))
  state = make_state(setup)
  old = state.memory["signature"]
  new = step(state, make_batch(7))[0].memory["signature"]
  assert (new.mean_E != old.mean_E).all()
  # A twentieth of the way from 1 to the small deviation of first scores.
  np.testing.assert_allclose(new.deviation_E, 0.95, atol=0.05)
