"""A run from its config to its result."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from icm_jax import competition, rng, types
from icm_jax.competition import average
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import classifier as classifier_lib
from icm_jax.training import checkpoint, metrics, results
from icm_jax.training import course as course_lib
from icm_jax.training import setup as setup_lib
from icm_jax.training import workdir as workdir_lib

if TYPE_CHECKING:
  import ml_collections


def train(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  *,
  resume: bool = False,
  reporter: course_lib.Reporter | None = None,
  started: float | None = None,
) -> dict[str, Any]:
  """Trains, evaluates and writes everything but the report.

  Args:
    config: as `experiments/configs/mnist.py` documents it.
    workdir: made if it does not exist; belongs to one run.
    resume: go on from the newest checkpoint in `workdir`.
    reporter: told how the run goes.
    started: `time.perf_counter()` at the start of the process; None is now.

  Returns:
    What `result.json` holds.

  Raises:
    InputError: the user's input is at fault; nothing was trained yet.
    FloatingPointError: a loss is not finite; names the step.
    Interrupted: SIGINT or SIGTERM came, and a checkpoint was saved.
  """
  started = time.perf_counter() if started is None else started
  reporter = reporter or course_lib.Silent()
  workdir_lib.claim(workdir, config, resume=resume)
  run = setup_lib.build(config, progress=reporter.prepare)
  reporter.say(
    f"{run.problem.name}: {len(run.problem.transformed_ids)} transformed, "
    f"{len(run.problem.canonical_ids)} canonical, "
    f"{len(run.problem.test_ids)} test images; "
    f"{len(run.mechanism_names)} mechanisms, "
    f"{setup_lib.num_experts(config)} experts"
  )
  with (
    workdir_lib.hold(workdir, config),
    contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints,
    course_lib.stop_requests() as stop_requested,
  ):
    session = _start(config, run, checkpoints, reporter, started)
    first_step = int(session.state.step)
    # At step 0 nothing counts as done: its evaluation is written again.
    writer = metrics.MetricWriter(workdir, last_step=first_step or -1)
    with contextlib.closing(writer):
      session = _compete(
        config, run, session, checkpoints, writer, reporter, stop_requested
      )
    reporter.say("evaluating")
    result = results.measure(
      workdir, config, run, session.state, session.classifier
    )
    session.clock.lap("evaluate")
    checkpoints.save(_saved(config, session))
    return results.write(workdir, result, session.clock.seconds)


class _Session(NamedTuple):
  """What a run carries along."""

  state: types.TrainState
  classifier: types.PyTree
  step_fn: Callable[..., tuple[types.TrainState, types.Metrics]]
  clock: course_lib.Clock


def _start(config, run, checkpoints, reporter, started) -> _Session:
  """Compiles, and restores a state or makes one that can copy images."""
  abstract = setup_lib.abstract_state(config, run)
  saved = None
  if checkpoints.steps():
    saved = checkpoints.restore(*abstract)
    reporter.say(f"resuming at step {int(saved.state.step)}")
  clock = course_lib.Clock(started, saved.progress["seconds"] if saved else {})
  clock.lap("start")

  reporter.say("compiling the step")
  raw = problem_lib.draw_raw(
    run.problem, seed=config.seed, step=0, batch_size=config.train.batch_size
  )
  step_fn = (
    jax.jit(functools.partial(raw_steps, run=run), donate_argnames=("state",))
    .lower(abstract[0], [raw] * config.train.updates_per_dispatch)
    .compile()
  )
  clock.lap("compile")
  if saved:
    return _Session(saved.state, saved.classifier, step_fn, clock)

  classifier = {}
  if run.classifier:
    reporter.say("training the evaluation classifier")
    classifier = classifier_lib.train_classifier(
      run.classifier,
      run.problem.images.image_NHWC,
      run.problem.images.label_N,
      run.problem.train_ids,
      seed=config.seed,
      **config.classifier,
    )
    jax.block_until_ready(classifier)
    clock.lap("classifier")
  reporter.say("identity start")
  state = jax.jit(lambda key: setup_lib.init_state(key, config, run.setup))(
    jax.random.key(config.seed)
  )
  state = identity_start(config, run, state, reporter)
  jax.block_until_ready(state)
  clock.lap("identity")
  session = _Session(state, classifier, step_fn, clock)
  checkpoints.save(_saved(config, session))
  return session


def raw_step(
  state: types.TrainState, raw: problem_lib.Raw, *, run: setup_lib.Run
) -> tuple[types.TrainState, types.Metrics]:
  """Distorts a batch and lets the experts compete for it; to be jitted."""
  batch = problem_lib.make_batch(
    state.key, state.step, raw, run.mechanisms, run.augmentation
  )
  return competition.competition_step(state, batch, setup=run.setup)


def raw_steps(
  state: types.TrainState,
  raws: Sequence[problem_lib.Raw],
  *,
  run: setup_lib.Run,
) -> tuple[types.TrainState, types.Metrics]:
  """Updates for consecutive batches, to be jitted: one dispatch for all.

  Returns:
    The state after the last, and metrics with a leading axis of updates.
  """
  if len(raws) == 1:  # Out of a loop, in which XLA is slow on CPU.
    state, step_metrics = raw_step(state, raws[0], run=run)
    return state, jax.tree.map(lambda a: a[None], step_metrics)
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *raws)
  return jax.lax.scan(functools.partial(raw_step, run=run), state, stacked)


def identity_start(
  config: ml_collections.ConfigDict,
  run: setup_lib.Run,
  state: types.TrainState,
  reporter: course_lib.Reporter,
) -> types.TrainState:
  """Trains every expert to copy its input, until its error is in bounds.

  If `identity.paired` is set, they learn the originals of their inputs instead.

  An expert whose error on a batch is below `identity.mse` learns no further;
  the start ends when all are there, or after `identity.max_steps`.

  Returns:
    The state with fresh optimizer states, still at step 0.
  """
  setup = run.identity_setup
  state = state.replace(
    expert_opt_E=jax.vmap(setup.expert_tx.init)(state.experts_E)
  )

  @functools.partial(jax.jit, donate_argnames=("state",))
  def update(state, learning_E, source_BHWC, step):
    raw = problem_lib.Raw(source_BHWC, source_BHWC)
    key = rng.stream(state.key, "identity")
    batch = problem_lib.make_batch(key, step, raw, run.mechanisms)
    x_BHWC = batch.transformed_BHWC
    # Both halves of the raw batch are the sources.
    target_BHWC = batch.canonical_BHWC if config.identity.paired else x_BHWC
    state, mse_E = competition.identity_step(
      state, x_BHWC, target_BHWC, learning_E, setup=setup
    )
    return state, learning_E & (mse_E >= config.identity.mse), mse_E

  learning_E = jnp.ones(setup_lib.num_experts(config), bool)
  for step in range(config.identity.max_steps):
    ids = problem_lib.draw_ids(
      run.problem.transformed_ids,
      seed=config.seed,
      name="identity",
      step=step,
      batch_size=config.identity.batch_size,
    )
    images_BHWC = run.problem.images.image_NHWC[ids]
    state, learning_E, mse_E = update(
      state, learning_E, images_BHWC, jnp.int32(step)
    )
    if not learning_E.any():
      reporter.say(
        f"all experts are within bounds after {step + 1} steps, "
        f"error {float(mse_E.max()):.4f}"
      )
      break
  return average.restart(
    state.replace(
      expert_opt_E=jax.vmap(run.setup.expert_tx.init)(state.experts_E)
    )
  )


def _compete(
  config, run, session, checkpoints, writer, reporter, stop_requested
) -> _Session:
  """Runs the remaining steps."""
  state, classifier, step_fn, clock = session
  first, total = int(state.step), config.train.steps
  stride = config.train.updates_per_dispatch
  raws = problem_lib.batches(
    run.problem,
    seed=config.seed,
    steps=range(first, total),
    batch_size=config.train.batch_size,
  )
  course = course_lib.Course(
    update=lambda state: step_fn(state, [next(raws) for _ in range(stride)]),
    evaluate=lambda state: run.curve.evaluate(state, classifier),
    save=lambda state: checkpoints.save(
      _saved(config, session._replace(state=state))
    ),
    every=config.every,
    clock=clock,
    writer=writer,
    reporter=reporter,
    stop_requested=stop_requested,
  )
  if first == 0 and config.every.evaluate:
    course.write_evaluation(state, 0)
  state = course.run(state, first, total, stride=stride)
  return session._replace(state=state)


def _saved(config, session: _Session) -> checkpoint.Saved:
  return checkpoint.Saved(
    session.state,
    session.classifier,
    {
      "config": workdir_lib.plain_config(config),
      "seconds": dict(session.clock.seconds),
    },
  )
