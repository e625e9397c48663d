"""Every experiment of the paper can be built and trained for a few steps."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import competition, models, types
from icm_jax.competition import losses
from icm_jax.data import problem as problem_lib
from icm_jax.training import (
  build,
  identity_start,
  image_run,
  networks,
  ranges,
  train_loop,
)

pytestmark = pytest.mark.usefixtures("drawn_data")

CONFIGS = pathlib.Path(__file__).parent.parent / "experiments" / "configs"
# Whole runs of mnist.py are tested elsewhere, and so are RIMs.
NAMES = sorted(
  path.stem
  for path in CONFIGS.glob("[!_]*.py")
  if path.stem != "mnist" and not path.stem.startswith("rim_")
)


# Configs whose smoke mode trains here. Steps of the others are traced, which
# finds what does not fit together; their parts are compiled for these.
TRAINED = (
  "celeba_attributes",
  "mnist_c",
  "mnist_paper",
  "no_competition",
  "omniglot_transfer",
  "paired_network",
  "unknown_count",
)


def config_of(name, mode):
  return importlib.import_module(f"experiments.configs.{name}").get_config(mode)


def jit(fn, *arguments):
  """Compiles without optimisation, because nothing here runs for long."""
  lowered = jax.jit(fn).lower(*arguments)
  return lowered.compile({"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("name", NAMES)
def test_smoke_modes_train_or_can_be_traced(name):
  config = config_of(name, "smoke")
  run = build.build(config)
  # Not compiled as a whole: configs share most of the parts.
  state = networks.init_state(jax.random.key(0), config, run.setup)
  if config.pairs.steps:
    before = jax.tree.leaves(jax.device_get(state.experts_E))
    state = identity_start.pretrain(config, run, state, train_loop.Silent())
    after = jax.tree.leaves(jax.device_get(state.experts_E))
    assert not all(map(np.array_equal, before, after))
    return
  step, update = None, functools.partial(image_run.raw_step, run=run)
  if name not in TRAINED:
    raw = problem_lib.draw_raw(
      run.problem, seed=0, step=0, batch_size=config.train.batch_size
    )
    after, metrics = jax.eval_shape(update, state, raw)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["loss/expert"].shape == ()
    return
  for raw in problem_lib.batches(
    run.problem, seed=0, steps=range(2), batch_size=config.train.batch_size
  ):
    step = step or jit(update, state, raw)
    state, metrics = step(state, raw)
    assert np.isfinite(metrics["loss/expert"])
    shape = (networks.num_experts(config),)
    assert metrics["competition/wins_E"].shape == shape
  assert int(state.step) == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["embedded", "full"])
def test_numbers_of_other_modes_are_in_range(name, mode):
  config = config_of(name, mode)
  ranges.check(config)
  networks.num_experts(config)


def test_where_losers_learn_all_experts_do(make_setup, make_state, make_batch):
  setup, batch = make_setup(losers_learn=True), make_batch()
  state = make_state(setup)
  step = functools.partial(competition.competition_step, setup=setup)
  new, metrics = jit(step, state, batch)(state, batch)
  assert (metrics["competition/wins_E"] == 0).any()

  def objective(experts_E):
    y_EBHWC, _ = jax.vmap(
      functools.partial(setup.expert.apply, train=True), (0, 0, None)
    )(experts_E, state.expert_stats_E, batch.transformed_BHWC)
    score_EB = jax.vmap(
      lambda y: setup.discriminator.apply(
        state.discriminator, {}, y, train=True
      )[0]
    )(y_EBHWC)
    return jnp.sum(losses.expert_loss(score_EB).mean(axis=1))

  gradients_E = jit(jax.grad(objective), state.experts_E)(state.experts_E)
  # Adam's first moment is a tenth of the first gradient.
  for moment_E, gradient_E in zip(
    jax.tree.leaves(new.expert_opt_E[0].mu),
    jax.tree.leaves(gradients_E),
    strict=True,
  ):
    np.testing.assert_allclose(moment_E, 0.1 * gradient_E, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_experts_copy_by_construction(channels):
  network = models.from_linen(
    models.ConvExpert(features=32, norm="none", copies=True), (12, 12, channels)
  )
  key_E = jax.random.split(jax.random.key(0), 2)
  params_E, _ = jit(jax.vmap(network.init), key_E)(key_E)
  x_BHWC = jax.random.uniform(jax.random.key(1), (4, 12, 12, channels))
  copy = jax.vmap(
    lambda params: network.apply(params, {}, x_BHWC, train=True)[0]
  )
  y_EBHWC = jit(copy, params_E)(params_E)
  assert (
    jnp.mean((y_EBHWC - x_BHWC[None]) ** 2, axis=(1, 2, 3, 4)) < 0.02
  ).all()
  assert not np.array_equal(*y_EBHWC)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"norm": "group"}, "expected 'none'"),
    ({"features": 2, "norm": "none"}, "3 channels needs as many features"),
  ],
)
def test_networks_that_cannot_copy_are_refused(fields, message):
  network = models.from_linen(
    models.ConvExpert(copies=True, **fields), (12, 12, 3)
  )
  with pytest.raises(types.InputError, match=message):
    network.init(jax.random.key(0))
