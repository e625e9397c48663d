"""The referee: a classifier of both sides that helps to choose winners."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import competition, models, types
from icm_jax.competition import remedies

# Transformed images are dark and canonical ones bright, apart from noise.
DARK, BRIGHT = 0.3, 0.7


@pytest.fixture(scope="module")
def network():
  return models.from_linen(
    models.ConvClassifier(1, features=2, hidden=8, norm="batch"), (8, 8, 1)
  )


def draw(num_images, level, seed):
  """Returns noisy images of one brightness."""
  noise_BHWC = np.random.default_rng(seed).normal(
    level, 0.1, (num_images, 8, 8, 1)
  )
  return jnp.asarray(noise_BHWC.clip(0, 1), jnp.float32)


def learn(remedy, setup, state, steps):
  """Returns the state after a referee saw some batches and no outputs."""

  @jax.jit
  def after(state, batch):
    # If outputs were read, they would spoil what it learns.
    y_EBHWC = jnp.full((3, *batch.transformed_BHWC.shape), jnp.nan)
    return remedy.after(state, types.Seen(setup, batch, y_EBHWC), None)

  for step in range(steps):
    seed = 2 * step
    batch = types.Batch(draw(16, DARK, seed), draw(16, BRIGHT, seed + 1))
    state = after(state.replace(step=state.step + 1), batch)
  return state


def test_a_referee_learns_both_sides_and_prefers_canonical_outputs(
  network, make_setup, make_state
):
  remedy = remedies.referee(2.0, network=network)
  setup = make_setup(remedies=(remedy,))
  state = learn(remedy, setup, make_state(setup), 100)

  x_BHWC, better_BHWC = draw(5, DARK, 1_000), draw(5, BRIGHT, 1_001)
  seen = types.Seen(
    setup,
    types.Batch(x_BHWC, x_BHWC[:0]),
    jnp.stack([x_BHWC, better_BHWC, better_BHWC]),
  )
  merit_EB = remedy.test_merit(jnp.ones((3, 5)), state, seen)
  # An image that is left as it was gets no bonus.
  chex.assert_trees_all_close(merit_EB[0], jnp.ones(5), atol=1e-5)
  assert (merit_EB[1:] > 3.0).all()


def test_a_referee_changes_nothing_else_in_training(
  network, make_setup, make_state, make_batch
):
  referee = remedies.referee(1e6, network=network)
  (plain, _), (refereed, _) = (
    jax.jit(functools.partial(competition.competition_step, setup=setup))(
      make_state(setup), make_batch()
    )
    for setup in (make_setup(), make_setup(remedies=(referee,)))
  )
  chex.assert_trees_all_equal(plain.experts_E, refereed.experts_E)
  chex.assert_trees_all_equal(plain.discriminator, refereed.discriminator)


def test_a_referee_decides_outside_training(network, make_setup, make_state):
  remedy = remedies.referee(1e6, network=network)
  setup = make_setup(remedies=(remedy,))
  state = learn(remedy, setup, make_state(setup), 30)
  x_BHWC = draw(6, DARK, 1_000)
  restored = competition.restore(state, x_BHWC, setup=setup)
  params, stats = state.memory["referee"].average
  logit_EB = jnp.stack(
    [
      network.apply(params, stats, y_BHWC, train=False)[0][:, 0]
      for y_BHWC in restored.output_EBHWC
    ]
  )
  np.testing.assert_array_equal(restored.winner_B, logit_EB.argmax(axis=0))
  plain = competition.restore(state, x_BHWC, setup=make_setup())
  assert not np.array_equal(plain.winner_B, restored.winner_B)


def test_a_referee_judges_by_means_over_its_steps(
  network, make_setup, make_state
):
  remedy = remedies.referee(1.0, network=network)
  setup = make_setup(remedies=(remedy,))
  state = make_state(setup)
  seen = [
    learn(remedy, setup, state, steps).memory["referee"] for steps in (1, 2)
  ]
  first, second = (jax.tree.leaves((m.params, m.stats)) for m in seen)
  chex.assert_trees_all_close(jax.tree.leaves(seen[0].average), first)
  chex.assert_trees_all_close(
    jax.tree.leaves(seen[1].average),
    [(a + b) / 2 for a, b in zip(first, second, strict=True)],
    atol=1e-6,
  )


def test_a_negative_weight_is_refused(network):
  with pytest.raises(types.InputError, match="referee.weight"):
    remedies.referee(-1.0, network=network)
