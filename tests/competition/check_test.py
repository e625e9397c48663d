"""Inputs that do not fit together are refused when the step is traced."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from icm_jax import competition, types

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
    ({"canonical": images(5, 6, 6, 1)}, "as many canonical images"),
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
    ({"expert_map": "vmapped"}, "auto, unroll, vmap; got 'vmapped'"),
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
  odd = setup._replace(expert_map="scan")
  with pytest.raises(types.InputError, match="auto, unroll, vmap; got 'scan'"):
    competition.init_state(jax.random.key(0), odd, 2)
