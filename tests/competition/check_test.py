"""Inputs that do not fit together are refused when the step is traced."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from icm_jax import competition, types
from icm_jax.competition import remedies

SHAPE = (4, 6, 6, 1)


def make_expert(apply, dtype="float32"):
  def init(key):
    return {"gain": jax.random.uniform(key, (1, 1, 1, 1)).astype(dtype)}, {}

  return types.Network(init, apply)


def scale(params, stats, x_BHWC, *, train):
  del train
  return x_BHWC * params["gain"].astype(x_BHWC.dtype), stats


def mean_score(params, stats, x_BHWC, *, train):
  del train
  return params["gain"].ravel() * x_BHWC.mean(axis=(1, 2, 3)), stats


def trace(
  expert=None, judge=None, transformed=None, canonical=None, expert_map="auto"
):
  """Traces a step in which one thing is wrong."""
  setup = types.Setup(
    expert or make_expert(scale),
    judge or make_expert(mean_score),
    optax.sgd(1e-2),
    optax.sgd(1e-2),
  )
  state = jax.eval_shape(
    lambda key: competition.init_state(key, setup, 3), jax.random.key(0)
  )
  setup = setup._replace(expert_map=expert_map)
  image = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
  batch = types.Batch(transformed or image, canonical or image)
  step = functools.partial(competition.competition_step, setup=setup)
  return jax.eval_shape(step, state, batch)


def images(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def test_valid_inputs_are_traced():
  trace()


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    (
      {"transformed": images(*SHAPE, dtype=jnp.uint8)},
      "got uint8 of shape .*Divide uint8 images by 255",
    ),
    ({"canonical": images(4, 6, 6)}, r"shape \[B, H, W, C\]; got float32"),
    ({"canonical": images(4, 8, 8, 1)}, r"of the same size .*\(4, 8, 8, 1\)"),
    ({"canonical": images(4, 6, 6, 3)}, r"and channels; got \(4, 6, 6, 3\)"),
    ({"canonical": images(5, 6, 6, 1)}, "as many images in canonical_BHWC as"),
    (
      {"expert": make_expert(lambda p, s, x, train: (x[:, 1:], s))},
      r"input's shape \(4, 6, 6, 1\); got \(4, 5, 6, 1\)",
    ),
    (
      {"expert": make_expert(lambda p, s, x, train: x)},
      r"to return \(y, stats\)",
    ),
    (
      {"expert": make_expert(lambda p, s, x, train: (x, {"n": x}))},
      "statistics to keep their structure",
    ),
    (
      {"judge": make_expert(lambda p, s, x, train: (x[:, 0, 0], s))},
      r"of shape \(4,\); got \(4, 1\)",
    ),
    (
      {"judge": make_expert(lambda p, s, x, train: (x @ x[0, :3, 0], s))},
      r"discriminator cannot be applied to images of shape \(4, 6, 6, 1\)",
    ),
    (
      {"expert": make_expert(scale, dtype="int32")},
      "floating point parameters of the experts.*int32 at",
    ),
    ({"expert_map": "vmapped"}, "auto, unroll, vmap, .*; got 'vmapped'"),
  ],
)
def test_invalid_inputs_are_refused(wrong, message):
  with pytest.raises(types.InputError, match=message):
    trace(**wrong)


def test_bad_setups_are_refused(make_setup):
  setup = make_setup()
  with pytest.raises(types.InputError, match="at least 1; got 0"):
    competition.init_state(jax.random.key(0), setup, 0)
  mixing = setup._replace(discriminator=make_setup(norm="batch").expert)
  with pytest.raises(types.InputError, match="running statistics"):
    competition.init_state(jax.random.key(0), mixing, 2)
  for chosen in (remedies.r1(0.1), (remedies.r1,)):
    with pytest.raises(types.InputError, match="Expected a tuple of remedies"):
      competition.init_state(
        jax.random.key(0), setup._replace(remedies=chosen), 2
      )
  odd = setup._replace(expert_map="scan")
  with pytest.raises(types.InputError, match="auto, unroll, .*; got 'scan'"):
    competition.init_state(jax.random.key(0), odd, 2)


@pytest.mark.parametrize(
  ("make_key", "message"),
  [
    (lambda: jax.random.PRNGKey(0), r"got uint32 of shape \(2,\)"),
    (lambda: jax.random.split(jax.random.key(0)), r"of shape \(2,\)"),
    (lambda: 7, "got 7"),
  ],
  ids=["raw", "several", "seed"],
)
def test_only_one_typed_key_starts_a_run(make_key, message, make_setup):
  with pytest.raises(types.InputError, match=f"one typed key.*{message}"):
    competition.init_state(make_key(), make_setup(), 2)


def test_a_state_of_other_remedies_is_told(make_setup, make_state, make_batch):
  state, batch = make_state(make_setup()), make_batch()
  setup = make_setup(remedies=(remedies.r1(0.1), remedies.balance(1.0)))
  x_BHWC = batch.transformed_BHWC
  for use in (
    lambda: competition.competition_step(state, batch, setup=setup),
    lambda: competition.restore(state, x_BHWC, setup=setup),
    lambda: competition.score(state, x_BHWC, setup=setup),
  ):
    with pytest.raises(types.InputError, match="for the remedies balance;"):
      use()
  # With the memory, it is traced.
  state = competition.init_memory(state, setup)
  jax.eval_shape(
    functools.partial(competition.restore, setup=setup), state, x_BHWC
  )


@pytest.mark.parametrize(
  ("image", "message"),
  [
    (images(*SHAPE, dtype=jnp.uint8), "got uint8.*Divide uint8 images by 255"),
    (images(6, 6, 1), r"of shape \[B, H, W, C\]; got float32"),
  ],
)
def test_images_are_checked_outside_the_step(image, message, make_setup):
  setup = make_setup((8, 8, 1))
  state = jax.eval_shape(
    lambda key: competition.init_state(key, setup, 2), jax.random.key(0)
  )
  pretrain = lambda state, x_BHWC, *, setup: competition.pretrain_step(
    state, x_BHWC, x_BHWC, jnp.ones(2, bool), setup=setup
  )
  for fn in (competition.restore, competition.score, pretrain):
    with pytest.raises(types.InputError, match=message):
      jax.eval_shape(functools.partial(fn, setup=setup), state, image)


def test_targets_of_another_shape_are_told(make_setup, make_state, make_batch):
  setup, x_BHWC = make_setup(), make_batch().transformed_BHWC
  target_BHWC = jnp.concatenate([x_BHWC] * 3, axis=-1)
  with pytest.raises(types.InputError, match="as many images in target_BHWC"):
    competition.pretrain_step(
      make_state(setup), x_BHWC, target_BHWC, jnp.ones(3, bool), setup=setup
    )
