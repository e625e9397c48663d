"""Training of experts before they compete: the identity start, and pairs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import numpy as np
import optax

from icm_jax import competition, rng, types
from icm_jax.data import problem as problem_lib
from icm_jax.training import build, networks, sharding, train_loop

if TYPE_CHECKING:
  import ml_collections


def pretrain(
  config: ml_collections.ConfigDict,
  run: build.Run,
  state: types.TrainState,
  reporter: train_loop.Reporter,
  mesh: sharding.Mesh | None = None,
) -> types.TrainState:
  """Trains every expert on its own: the identity start, then pairs.

  Args:
    config: config of the run, whose sections `identity` and `pairs` are used.
    run: parts of the run.
    state: state at step 0.
    reporter: receives messages.
    mesh: devices of the run; None is one device.

  Returns:
    The state with fresh optimizer states and memory, still at step 0.
  """
  if not (config.identity.max_steps or config.pairs.steps):
    return state
  reporter.say("identity start")
  c = config.identity
  state = _train_alone(
    config, run, mesh, state, reporter, c, c.max_steps, c.mse, paired=False
  )
  c = config.pairs
  state = _train_alone(
    config, run, mesh, state, reporter, c, c.steps, 0.0, paired=True
  )
  return sharding.make(
    mesh, functools.partial(begin_competition, setup=run.setup), state
  )


def begin_competition(
  state: types.TrainState, *, setup: types.Setup
) -> types.TrainState:
  """Returns a state with fresh optimizer states and memory."""
  state = with_optimizer(state, setup=setup)
  return competition.init_memory(state, setup)


def with_optimizer(
  state: types.TrainState, *, setup: types.Setup
) -> types.TrainState:
  """Returns a state with fresh optimizer states of the experts."""
  opt_E = jax.vmap(setup.expert_tx.init)(state.experts_E)
  return state.replace(expert_opt_E=opt_E)


def setup_of(
  setup: types.Setup, phase: ml_collections.ConfigDict
) -> types.Setup:
  """Returns the setup of a phase, which has an optimizer of its own."""
  return setup._replace(expert_tx=optax.adam(phase.learning_rate))


def draw_images(
  config: ml_collections.ConfigDict,
  run: build.Run,
  phase: ml_collections.ConfigDict,
  step: int,
) -> np.ndarray:
  """Draws the sources of one step of a phase, uint8, [B, H, W, C]."""
  ids = problem_lib.draw_ids(
    run.problem.transformed_ids,
    seed=config.seed,
    name="identity",
    step=step,
    batch_size=phase.batch_size,
  )
  return run.problem.images.image_NHWC[ids]


def update(
  state: types.TrainState,
  learning_E: jax.Array,
  source_BHWC: np.ndarray,
  step: jax.Array,
  *,
  run: build.Run,
  setup: types.Setup,
  bound: float,
  paired: bool,
  mesh: sharding.Mesh | None = None,
) -> tuple[types.TrainState, jax.Array, jax.Array]:
  """Trains every expert on one batch; to be jitted.

  Args:
    state: state of the run.
    learning_E: bool, experts that learn.
    source_BHWC: uint8, images before a mechanism acts.
    step: [] int32, the number of the batch.
    run: parts of the run.
    setup: setup of the phase, see `setup_of`.
    bound: error below which an expert stops learning.
    paired: whether experts learn to restore images, or to copy them.
    mesh: devices of the run; None is one device.

  Returns:
    The state; the experts that go on learning; and their errors, see
    `competition.pretrain_step`.
  """
  raw = problem_lib.Raw(source_BHWC, source_BHWC)
  key = rng.stream(state.key, "identity")
  batch = problem_lib.make_batch(key, step, raw, run.mechanisms)
  x_BHWC = batch.transformed_BHWC
  # Both halves of the raw batch are the sources.
  target_BHWC = batch.canonical_BHWC if paired else x_BHWC
  state, mse_E = sharding.pretrain_step(
    state, x_BHWC, target_BHWC, learning_E, setup=setup, mesh=mesh
  )
  return state, learning_E & (mse_E >= bound), mse_E


def _train_alone(
  config, run, mesh, state, reporter, phase, max_steps, bound, *, paired
) -> types.TrainState:
  """Trains experts to copy their inputs, or to restore them from pairs.

  An expert whose error on a batch is below the bound stops learning. The phase
  ends when all experts have stopped, or after its steps.
  """
  if not max_steps:
    return state
  setup = setup_of(run.setup, phase)
  state = sharding.make(
    mesh, functools.partial(with_optimizer, setup=setup), state
  )
  jitted = jax.jit(
    functools.partial(
      update, run=run, setup=setup, bound=bound, paired=paired, mesh=mesh
    ),
    donate_argnames=("state",),
  )
  learning_E = np.ones(networks.num_experts(config), bool)
  learning_E = sharding.replicate(mesh, learning_E)
  for step in range(max_steps):
    images_BHWC = draw_images(config, run, phase, step)
    state, learning_E, mse_E = jitted(
      state, learning_E, images_BHWC, np.int32(step)
    )
    if not learning_E.any():
      reporter.say(
        f"all experts copy after {step + 1} steps, "
        f"error at most {float(mse_E.max()):.4f}"
      )
      break
  return state
