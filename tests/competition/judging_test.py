"""The discriminator learns from all losers, or from a few on average."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from icm_jax import competition, types
from icm_jax.competition import judging, remedies

EXPERTS = 4


@pytest.fixture
def setup(make_setup):
  """Steps show gradients, because rates are 1."""
  tx = optax.sgd(1.0)
  setup = make_setup(remedies=(remedies.winner_weight(0.5),))
  return setup._replace(expert_tx=tx, discriminator_tx=tx)


def update(setup, state, batch):
  step = functools.partial(competition.competition_step, setup=setup)
  return jax.jit(step)(state, batch)


@pytest.mark.parametrize("losers", [1, 2])
def test_draws_have_a_mean_of_one(losers):
  winner_B = jnp.array([0, 3, 3])
  draw = functools.partial(
    judging.draw, winner_B=winner_B, num_experts=EXPERTS, losers=losers
  )
  keys = jax.random.split(jax.random.key(0), 4000)
  weight_NEB = np.asarray(jax.vmap(draw)(keys))
  images = np.arange(3)
  assert (weight_NEB[:, winner_B, images] == 1).all()
  drawn_NB = (weight_NEB > 0).sum(axis=1) - 1
  assert (drawn_NB == losers).all()
  np.testing.assert_allclose(weight_NEB.sum(axis=1), EXPERTS, rtol=1e-6)
  np.testing.assert_allclose(weight_NEB.mean(axis=0), 1, atol=0.1)
  # Images have draws of their own.
  assert len({tuple(w) for w in weight_NEB[0].T[1:]}) == 2 or losers == 2


def test_the_mean_over_draws_is_the_gradient_from_all_losers(
  setup, make_state, make_batch, monkeypatch
):
  state, batch = make_state(setup, EXPERTS), make_batch(2)
  expected, metrics = update(setup, state, batch)
  won_BE = np.asarray(_winners(setup, state, batch))
  patterns = []
  for losers in itertools.product(range(EXPERTS - 1), repeat=2):
    weight_BE = won_BE.astype(np.float32)
    for image, loser in enumerate(losers):
      which = np.flatnonzero(~won_BE[image])[loser]
      weight_BE[image, which] = EXPERTS - 1
    patterns.append(weight_BE.T)
  chosen = []
  monkeypatch.setattr(judging, "draw", lambda *_, **__: chosen[-1])

  @jax.jit
  def few(weight_EB):
    chosen.append(weight_EB)
    return competition.competition_step(
      state, batch, setup=setup._replace(losers=1)
    )

  results = [few(jnp.asarray(pattern)) for pattern in patterns]
  for new, found in results:
    # The winners' gradient and the reported losses are those of all losers.
    chex.assert_trees_all_close(new.experts_E, expected.experts_E, atol=1e-6)
    chex.assert_trees_all_close(found, metrics, rtol=1e-5)
  discriminators = [new.discriminator for new, _ in results]
  mean = jax.tree.map(lambda *a: jnp.stack(a).mean(axis=0), *discriminators)
  chex.assert_trees_all_close(mean, expected.discriminator, atol=1e-5)
  apart = optax.tree.sub(discriminators[0], expected.discriminator)
  assert optax.tree.norm(apart) > 1e-3, "one draw: this test shows nothing"


def _winners(setup, state, batch):
  """Bool [B, E], by one image at a time, each of which has one winner."""
  rows = []
  for image in range(batch.transformed_BHWC.shape[0]):
    one = types.Batch(*(part[image : image + 1] for part in batch))
    rows.append(update(setup, state, one)[1]["competition/wins_E"] > 0)
  return jnp.stack(rows)


def test_steps_draw_other_losers_and_reuse_no_key(
  setup, make_state, make_batch
):
  setup = setup._replace(losers=1)
  state, batch = make_state(setup, EXPERTS), make_batch()
  with jax.debug_key_reuse(True):
    step = jax.jit(
      chex.assert_max_traces(n=1)(
        lambda s, b: competition.competition_step(s, b, setup=setup)
      )
    )
    first, _ = step(state, batch)
    again, _ = step(state, batch)
    other, _ = step(state.replace(step=state.step + 1), batch)
  chex.assert_trees_all_equal(first.discriminator, again.discriminator)
  differs = jax.tree.map(
    lambda a, b: bool((a != b).any()), first.discriminator, other.discriminator
  )
  assert any(jax.tree.leaves(differs))


def test_as_many_losers_as_there_are_is_all(setup, make_state, make_batch):
  state, batch = make_state(setup, 3), make_batch()
  programs = {
    jax.jit(functools.partial(competition.competition_step, setup=s))
    .lower(state, batch)
    .as_text()
    for s in (setup, setup._replace(losers=2))
  }
  assert len(programs) == 1


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"losers": 0}, "at least 1, or None for all; got 0"),
    ({"losers": 2, "losers_learn": True}, "losers must be None; got 2"),
  ],
)
def test_losers_that_cannot_be_drawn_are_refused(fields, message, make_setup):
  with pytest.raises(types.InputError, match=message):
    competition.init_state(jax.random.key(0), make_setup(**fields), EXPERTS)
