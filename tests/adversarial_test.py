"""Losses by name, smooth discriminators and terms of content, in a toy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from icm_jax import competition, models, types
from icm_jax.competition import content, losses, slopes

NUM_EXPERTS = 3


def init_expert(key):
  return {"w": 0.3 * jax.random.normal(key, (4, 4))}, {}


def apply_expert(params, stats, x_BHWC, *, train):
  del train
  flat_BF = x_BHWC.reshape(-1, 4)
  return (flat_BF + flat_BF @ params["w"]).reshape(x_BHWC.shape), stats


def init_discriminator(key):
  keys = jax.random.split(key)
  return {
    "v": 0.5 * jax.random.normal(keys[0], (4, 6)),
    "u": jax.random.normal(keys[1], (6,)),
  }, {}


def apply_discriminator(params, stats, x_BHWC, *, train):
  del train
  h_BF = jnp.tanh(x_BHWC.reshape(-1, 4) @ params["v"])
  return h_BF @ params["u"], stats


def make_toy(**fields):
  """Experts and a discriminator that can be differentiated twice."""
  return types.Setup(
    expert=types.Network(init_expert, apply_expert),
    discriminator=types.Network(init_discriminator, apply_discriminator),
    expert_tx=optax.sgd(1.0),
    discriminator_tx=optax.sgd(1.0),
    **fields,
  )


def score(discriminator, x_BHWC):
  return apply_discriminator(discriminator, {}, x_BHWC, train=True)[0]


PLAIN = {  # Of a canonical image's score, an output's, a winner's.
  "bce": (
    lambda s: -jnp.log(jax.nn.sigmoid(s)),
    lambda s: -jnp.log(1 - jax.nn.sigmoid(s)),
    lambda s: -jnp.log(jax.nn.sigmoid(s)),
  ),
  "lsgan": (
    lambda s: (s - 1) ** 2 / 2,
    lambda s: s**2 / 2,
    lambda s: (s - 1) ** 2 / 2,
  ),
  "hinge": (
    lambda s: jnp.maximum(1 - s, 0),
    lambda s: jnp.maximum(1 + s, 0),
    lambda s: -s,
  ),
  "wgan-gp": (lambda s: -s, lambda s: s, lambda s: -s),
}


def plain_gradients(state, batch, setup, key):
  """Gradients of experts and of D, by second derivatives and by masks."""
  real, fake, winner = PLAIN[setup.loss]
  x_BHWC, canonical_BHWC = batch

  def outputs(experts_E, x_BHWC):
    return jax.vmap(
      lambda params: apply_expert(params, {}, x_BHWC, train=True)[0]
    )(experts_E)

  def error(y, target):
    return jnp.mean((y - target) ** 2, axis=(-1, -2, -3))

  y_EBHWC = outputs(state.experts_E, x_BHWC)
  untouched_EBHWC = outputs(state.experts_E, canonical_BHWC)
  merit_EB = jax.vmap(functools.partial(score, state.discriminator))(y_EBHWC)
  identity_EB = error(untouched_EBHWC, canonical_BHWC[None])
  merit_EB -= setup.criterion_identity * identity_EB.mean(axis=1, keepdims=True)
  again_EBHWC = jax.vmap(
    lambda params, y: apply_expert(params, {}, y, train=True)[0]
  )(state.experts_E, y_EBHWC)
  merit_EB -= setup.criterion_cycle * error(again_EBHWC, y_EBHWC)
  winner_B = merit_EB.argmax(axis=0)
  mask_EB = winner_B[None] == jnp.arange(NUM_EXPERTS)[:, None]

  def expert_objective(experts_E):
    y_EBHWC = outputs(experts_E, x_BHWC)
    score_EB = jax.vmap(functools.partial(score, state.discriminator))(y_EBHWC)
    loss_EB = winner(score_EB) + setup.identity * error(
      outputs(experts_E, canonical_BHWC), canonical_BHWC[None]
    )
    return jnp.sum(mask_EB * loss_EB) / x_BHWC.shape[0]

  def slope(discriminator, x_BHWC):
    gradient = jax.grad(lambda x: score(discriminator, x).sum())(x_BHWC)
    return jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3)))

  def discriminator_objective(discriminator):
    fake_EB = jax.vmap(lambda y: fake(score(discriminator, y)))(y_EBHWC)
    loss_B = real(score(discriminator, canonical_BHWC)) + fake_EB.mean(axis=0)
    objective = loss_B.mean()
    seen_BHWC = canonical_BHWC[:: slopes.R1_STRIDE]
    objective += setup.r1 / 2 * jnp.mean(slope(discriminator, seen_BHWC) ** 2)
    if setup.loss == "wgan-gp":
      part = jax.random.uniform(key, (x_BHWC.shape[0], 1, 1, 1))
      won = y_EBHWC[winner_B, jnp.arange(x_BHWC.shape[0])]
      between = part * canonical_BHWC + (1 - part) * won
      objective += 10 * jnp.mean((slope(discriminator, between) - 1) ** 2)
    return objective

  return (
    jax.grad(expert_objective)(state.experts_E),
    jax.grad(discriminator_objective)(state.discriminator),
    mask_EB.sum(axis=1),
  )


@pytest.mark.parametrize(
  "fields",
  [
    {"loss": "bce", "r1": 0.3},
    {"loss": "lsgan", "identity": 0.7},
    {"loss": "hinge", "criterion_identity": 0.5, "criterion_cycle": 0.5},
    {"loss": "wgan-gp"},
  ],
  ids=lambda fields: "+".join(map(str, fields)),
)
def test_the_step_is_the_plain_form(fields, make_state, monkeypatch):
  setup = make_toy(**fields)
  state = make_state(setup, NUM_EXPERTS)
  keys = jax.random.split(jax.random.key(3), 3)
  batch = types.Batch(*(jax.random.normal(k, (9, 2, 2, 1)) for k in keys[:2]))
  monkeypatch.setattr("icm_jax.rng.stream", lambda *_: keys[2])

  @jax.jit
  def both(state):
    new, metrics = competition.competition_step(state, batch, setup=setup)
    return new, metrics, plain_gradients(state, batch, setup, keys[2])

  new, metrics, (experts_E, discriminator, wins_E) = both(state)
  np.testing.assert_array_equal(metrics["competition/wins_E"], wins_E)
  assert (wins_E > 0).sum() > 1
  minus = functools.partial(jax.tree.map, jnp.subtract)
  chex.assert_trees_all_close(
    minus(state.experts_E, new.experts_E), experts_E, atol=1e-5
  )
  # Of slopes the difference of scores is off by its third derivatives.
  chex.assert_trees_all_close(
    minus(state.discriminator, new.discriminator),
    discriminator,
    rtol=2e-3,
    atol=2e-3,
  )


def test_criteria_change_who_wins(make_state):
  state = make_state(make_toy(), NUM_EXPERTS)
  state = state.replace(
    experts_E={"w": jnp.stack([jnp.zeros((4, 4)), *2 * [jnp.eye(4)]])}
  )
  y_EBHWC = jnp.ones((NUM_EXPERTS, 2, 2, 2, 1))
  setup = make_toy(criterion_identity=2.0, criterion_cycle=3.0)
  canonical = content.untouched(
    state, 0.5 * jnp.ones((5, 2, 2, 1)), setup=setup
  )
  taken_EB = content.criterion(state, y_EBHWC, canonical, setup=setup)
  # The second and third double what they see: 0.5 and 1 in every pixel.
  expected = 2.0 * 0.25 + 3.0 * 1.0
  np.testing.assert_allclose(
    taken_EB, [[0.0] * 2, [expected] * 2, [expected] * 2], rtol=1e-6
  )


@pytest.mark.parametrize("where", ["canonical", "between"])
def test_slopes_of_compiled_convolutions(where):
  network = models.from_linen(
    models.ConvDiscriminator(features=2, hidden=4), (8, 8, 1)
  )
  discriminator, _ = network.init(jax.random.key(0))
  x_BHWC = jax.random.uniform(jax.random.key(1), (5, 8, 8, 1))

  def score(params, x_BHWC):
    return network.apply(params, {}, x_BHWC, train=True)[0]

  gradient = jax.grad(lambda x: score(discriminator, x).sum())(x_BHWC)
  length_B = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3)))
  if where == "canonical":
    value = lambda params: slopes.r1(score, params, x_BHWC)
    expected = 0.5 * jnp.mean(length_B[:: slopes.R1_STRIDE] ** 2)
  else:
    key = jax.random.key(2)
    value = lambda p: slopes.interpolated(key, score, p, x_BHWC, x_BHWC)
    expected = jnp.mean((length_B - 1.0) ** 2)
  np.testing.assert_allclose(value(discriminator), expected, rtol=0.05)
  gradients = jax.grad(value)(discriminator)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
  assert any(np.any(g) for g in jax.tree.leaves(gradients))


def test_an_unknown_loss_lists_the_known_ones(make_state):
  with pytest.raises(types.InputError, match="bce, lsgan, hinge.*'gan'"):
    make_state(make_toy(loss="gan"))


@pytest.mark.parametrize("name", list(losses.LOSSES))
def test_a_ratio_of_slopes_is_that_of_the_losses(name):
  loss = losses.by_name(name)
  if loss.slope_ratio is None:
    return
  score_B = jnp.array([-3.0, 0.0, 2.5])
  slope = lambda fn: jax.vmap(jax.grad(fn))(score_B)
  np.testing.assert_allclose(
    loss.slope_ratio(score_B) * slope(loss.output),
    slope(loss.winner),
    rtol=1e-5,
  )
