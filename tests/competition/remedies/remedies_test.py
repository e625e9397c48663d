"""The list of remedies; the step with each remedy, against a plain form."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from icm_jax import competition, models, types
from icm_jax.competition import remedies
from icm_jax.competition.remedies import averaging, balancing, smoothness

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


def plain_gradients(state, batch, weights):
  """Returns experts' and D's gradients, by second derivatives and masks."""
  x_BHWC, canonical_BHWC = batch

  def outputs(experts_E, x_BHWC):
    return jax.vmap(
      lambda params: apply_expert(params, {}, x_BHWC, train=True)[0]
    )(experts_E)

  y_EBHWC = outputs(state.experts_E, x_BHWC)
  merit_EB = jax.vmap(functools.partial(score, state.discriminator))(y_EBHWC)
  excess_E = jnp.maximum(jnp.array(SHARE_E) * NUM_EXPERTS - 1, 0)
  merit_EB -= weights.get("balance", 0) * excess_E[:, None]
  winner_B = merit_EB.argmax(axis=0)
  mask_EB = winner_B[None] == jnp.arange(NUM_EXPERTS)[:, None]

  def expert_objective(experts_E):
    y_EBHWC = outputs(experts_E, x_BHWC)
    score_EB = jax.vmap(functools.partial(score, state.discriminator))(y_EBHWC)
    error_EB = jnp.mean(
      (outputs(experts_E, canonical_BHWC) - canonical_BHWC[None]) ** 2,
      axis=(2, 3, 4),
    )
    loss_EB = -jnp.log(jax.nn.sigmoid(score_EB))
    loss_EB += weights.get("identity", 0) * error_EB
    return jnp.sum(mask_EB * loss_EB) / x_BHWC.shape[0]

  def discriminator_objective(discriminator):
    real_B = score(discriminator, canonical_BHWC)
    fake_EB = jax.vmap(functools.partial(score, discriminator))(y_EBHWC)
    fake_EB = -jnp.log(1 - jax.nn.sigmoid(fake_EB))
    part = weights.get("winner_weight", 0)
    fake_B = (1 - part) * fake_EB.mean(axis=0) + part * jnp.sum(
      mask_EB * fake_EB, axis=0
    )
    seen_BHWC = canonical_BHWC[:: smoothness.R1_STRIDE]
    gradient = jax.grad(lambda x: score(discriminator, x).sum())(seen_BHWC)
    r1 = 0.5 * jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))
    loss_B = -jnp.log(jax.nn.sigmoid(real_B)) + fake_B
    return loss_B.mean() + weights.get("r1", 0) * r1

  return (
    jax.grad(expert_objective)(state.experts_E),
    jax.grad(discriminator_objective)(state.discriminator),
    mask_EB.sum(axis=1),
  )


SHARE_E = [0.6, 0.3, 0.1]


@pytest.mark.parametrize(
  "weights",
  [
    {},
    {"r1": 0.3},
    {"identity": 0.7},
    {"winner_weight": 0.4},
    {"winner_weight": 1.0},
    {"balance": 1.5},
    {"balance": 1.5, "winner_weight": 0.4, "r1": 0.3, "identity": 0.7},
  ],
  ids=lambda weights: "+".join(weights) or "none",
)
def test_the_step_equals_its_plain_form(weights, make_state):
  chosen = {name: {"weight": weight} for name, weight in weights.items()}
  setup = make_toy(remedies=remedies.from_sections(chosen))
  state = make_state(setup, NUM_EXPERTS)
  if "balance" in weights:
    state = state.remember("balance", jnp.array(SHARE_E))
  keys = jax.random.split(jax.random.key(3))
  batch = types.Batch(*(jax.random.normal(key, (9, 2, 2, 1)) for key in keys))

  @jax.jit
  def both(state):
    new, metrics = competition.competition_step(state, batch, setup=setup)
    return new, metrics, plain_gradients(state, batch, weights)

  new, metrics, (experts_E, discriminator, wins_E) = both(state)
  np.testing.assert_array_equal(metrics["competition/wins_E"], wins_E)
  assert (wins_E > 0).sum() > 1
  minus = functools.partial(jax.tree.map, jnp.subtract)
  chex.assert_trees_all_close(
    minus(state.experts_E, new.experts_E), experts_E, atol=1e-5
  )
  # A slope from a difference of scores has an error of third derivatives.
  bound = 2e-3 if "r1" in weights else 1e-5
  chex.assert_trees_all_close(
    minus(state.discriminator, new.discriminator),
    discriminator,
    rtol=bound,
    atol=bound,
  )


def test_sections_leave_all_remedies_out():
  sections = remedies.sections()
  assert list(sections) == list(remedies.REMEDIES)
  assert remedies.from_sections(sections) == ()
  assert "alike" not in sections["relocation"]
  sections["relocation"]["every"] = 5
  sections["signature"]["weight"] = 1.0
  built = remedies.from_sections(sections)
  assert [remedy.name for remedy in built] == ["signature", "relocation"]


@pytest.mark.parametrize(
  ("sections", "message"),
  [
    (
      {"balance": {"weight": -1.0}},
      "balance.weight must be at least 0",
    ),
    ({"r1": {"weight": float("nan")}}, "r1.weight must be at least 0; got nan"),
    ({"averages": {"steps": 0.5}}, "averages.steps must be at least 1"),
    (
      {"winner_weight": {"weight": 1.5}},
      r"winner_weight.weight must be in \[0, 1\]; got 1.5",
    ),
    (
      {"relocation": {"every": 1, "max_share": 0.5}},
      "relocation.max_share must be at least 1",
    ),
    ({"luck": {"weight": 1.0}}, "Unknown remedies luck; known: signature"),
    ({"r1": {"weigth": 1.0}}, "r1 needs the setting weight.*got weigth"),
    ({"r1": {"weight": 1.0, "stride": 2}}, "got weight, stride"),
    ({"r1": {"weight": "a"}}, "r1.weight must be at least 0; got 'a'"),
    (
      {"balance": {"weight": float("inf")}},
      "balance.weight must .* got inf",
    ),
    ({"relocation": {"every": 2.5}}, "at least 1, and whole; got 2.5"),
  ],
)
def test_settings_out_of_range_are_refused(sections, message):
  with pytest.raises(types.InputError, match=message):
    remedies.from_sections(sections)


def test_learning_losers_exclude_winner_weight(make_state):
  setup = make_toy(losers_learn=True, remedies=(remedies.winner_weight(0.5),))
  with pytest.raises(types.InputError, match="leave out the remedy winner_w"):
    make_state(setup)


def test_handicap_by_hand():
  share_E = jnp.array([0.5, 0.25, 0.2, 0.05])
  np.testing.assert_allclose(
    balancing.handicap(share_E, 2.0), [2.0, 0.0, 0.0, 0.0], atol=1e-6
  )


def test_shares_follow_wins(make_state):
  setup = make_toy(remedies=(remedies.balance(1.0),))
  state = make_state(setup, NUM_EXPERTS).remember("balance", jnp.array(SHARE_E))
  won = types.Assignment(jnp.array([2, 2]), jnp.array([0, 0, 2]))
  seen = types.Seen(setup, None, None)
  after_E = setup.through("after", state, seen, won).memory["balance"]
  np.testing.assert_allclose(after_E.sum(), 1.0, atol=1e-6)
  np.testing.assert_allclose(after_E, [0.57, 0.285, 0.145], atol=1e-6)


def test_averages_follow_parameters_and_restart_for_moved_experts(
  make_setup, make_state, make_batch
):
  chosen = (remedies.averages(4.0), remedies.relocation(1, 0.9, 1.0, 0.1))
  setup = make_setup(remedies=chosen)
  state = make_state(setup)
  memory = state.memory["relocation"]
  state = state.remember(
    "relocation", memory._replace(win_share_E=jnp.array([1.0, 0.0, 0.0]))
  )
  step = jax.jit(functools.partial(competition.competition_step, setup=setup))
  new, metrics = step(state, make_batch())
  moved_E = np.asarray(metrics["competition/moved_E"])
  assert 0 < moved_E.sum() < 3
  for name in averaging.Averages._fields:
    for old, now, mean in zip(
      jax.tree.leaves(getattr(state, name)),
      jax.tree.leaves(getattr(new, name)),
      jax.tree.leaves(getattr(new.memory["averages"], name)),
      strict=True,
    ):
      expected = 0.75 * old + 0.25 * now
      if name == "experts_E":
        np.testing.assert_array_equal(mean[moved_E], now[moved_E])
        expected = np.where(
          moved_E.reshape(-1, *[1] * (now.ndim - 1)), now, expected
        )
      np.testing.assert_allclose(mean, expected, atol=1e-6)
  settled = setup.through("test_state", new)
  assert settled.discriminator is new.memory["averages"].discriminator


def test_the_slope_of_compiled_convolutions():
  network = models.from_linen(
    models.ConvDiscriminator(features=2, hidden=4), (8, 8, 1)
  )
  discriminator, _ = network.init(jax.random.key(0))
  x_BHWC = jax.random.uniform(jax.random.key(1), (5, 8, 8, 1))

  def score(params, x_BHWC):
    return network.apply(params, {}, x_BHWC, train=True)[0]

  gradient = jax.grad(lambda x: score(discriminator, x).sum())(x_BHWC)
  length_B = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3)))
  value = lambda params: smoothness.penalty(score, params, x_BHWC)
  expected = 0.5 * jnp.mean(length_B**2)
  np.testing.assert_allclose(value(discriminator), expected, rtol=0.05)
  gradients = jax.grad(value)(discriminator)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
  assert any(np.any(g) for g in jax.tree.leaves(gradients))
