"""A run of images, from its config to its result."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.data import problem as problem_lib
from icm_jax.data import skipped
from icm_jax.evaluation import classifier as classifier_lib
from icm_jax.training import (
  build,
  checkpoint,
  identity_start,
  metrics,
  networks,
  run_folder,
  run_result,
  sharding,
  train_loop,
)

if TYPE_CHECKING:
  import ml_collections


def train(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  *,
  resume: bool = False,
  reporter: train_loop.Reporter | None = None,
  started: float | None = None,
) -> dict[str, Any]:
  """Trains, evaluates and writes everything but the report.

  Args:
    config: config with the keys of `experiments/configs/sections/paper.py`.
    workdir: folder of the run; made if it does not exist.
    resume: whether to continue from the newest checkpoint in `workdir`.
    reporter: receives messages and progress.
    started: `time.perf_counter()` at the start of the process; None is now.

  Returns:
    The content of `result.json`.

  Raises:
    InputError: the user's input is wrong; nothing was trained.
    FloatingPointError: a loss is not finite; names the step.
    Interrupted: SIGINT or SIGTERM came during the updates, and a checkpoint is
      saved. At other times, signals keep their meaning.
  """
  started = time.perf_counter() if started is None else started
  reporter = reporter or train_loop.Silent()
  config = run_folder.absolute(config)
  if sharding.is_first():
    run_folder.claim(workdir, config, resume=resume)
  sharding.wait_for_all("the folder is free")
  mesh = sharding.make_mesh(config)
  run = build.build(config, progress=reporter.prepare)
  checkpoint.check_steps(workdir, config.train.steps, "--config.train.steps")
  if run.problem.group_names:
    reporter.say(
      "mechanisms are the groups of the data; --config.mechanisms is not used"
    )
  reporter.say(
    f"{run.problem.name}: {len(run.problem.transformed_ids)} transformed, "
    f"{len(run.problem.canonical_ids)} canonical, "
    f"{len(run.problem.test_ids)} test images, "
    f"{run.problem.num_unused} unused; "
    f"{len(run.mechanism_names)} mechanisms, "
    f"{networks.num_experts(config)} experts"
  )
  if run.problem.skipped:
    reporter.say(skipped.describe(skipped.by_reason(run.problem.skipped)))
  saw = build.saw(config, run)
  if mesh is not None:
    reporter.say(f"{mesh.size} devices: {sharding.describe(mesh)}")
  abstract = tuple(
    sharding.abstract(mesh, tree)
    for tree in networks.abstract_state(config, run.setup, run.classifier)
  )
  if not resume:
    checkpoint.check_space(workdir, abstract, count=checkpoint.KEPT + 1)
  with train_loop.occupy(workdir, config, saw) as checkpoints:
    session = _start(
      config, run, mesh, abstract, checkpoints, reporter, started
    )
    first_step = int(session.state.step)
    # A run that stopped at step 0 writes the evaluation of step 0 again.
    writer = (
      metrics.MetricWriter(workdir, last_step=first_step or -1)
      if sharding.is_first()
      else metrics.NoWriter()
    )
    with (
      contextlib.closing(writer),
      train_loop.saves_before_it_stops(
        checkpoints.wait, reporter
      ) as stop_requested,
    ):
      checkpoints.save(_saved(config, mesh, session))
      session = _compete(
        config,
        run,
        mesh,
        session,
        checkpoints,
        writer,
        reporter,
        stop_requested,
      )
      checkpoints.save(_saved(config, mesh, session))
    reporter.say("evaluating")
    result = run_result.measure(
      workdir,
      config,
      run,
      sharding.collect(mesh, session.state),
      session.classifier,
    )
    session.clock.lap("evaluate")
    if reasons := (result["transfer"] or {}).get("skipped_by_reason"):
      reporter.say(f"{config.transfer.name}: {skipped.describe(reasons)}")
    return run_result.write(workdir, result, session.clock.seconds)


class _Session(NamedTuple):
  """The state of a run, and the parts that exist while it is trained.

  Attributes:
    state: state of the run, on the devices of its mesh.
    classifier: parameters of the evaluation classifier, on one device.
    step_fn: the compiled update.
    clock: seconds by stage.
  """

  state: types.TrainState
  classifier: types.PyTree
  step_fn: Callable[..., tuple[types.TrainState, types.Metrics]]
  clock: train_loop.Clock


def _start(
  config, run, mesh, abstract, checkpoints, reporter, started
) -> _Session:
  """Compiles the step; reads the newest checkpoint, or starts from scratch."""
  saved = None
  if checkpoints.steps():
    saved = checkpoints.read_newest(*abstract)
    for line in checkpoints.passed_over():
      reporter.say(f"warning: {line}")
    reporter.say(f"resuming at step {int(saved.state.step)}")
  clock = train_loop.Clock(started, saved.progress["seconds"] if saved else {})
  clock.lap("start")

  reporter.say("compiling the step")
  (raw,) = _batches(config, run, mesh, range(1))
  step_fn = (
    jax.jit(
      functools.partial(raw_steps, run=run, mesh=mesh),
      donate_argnames=("state",),
    )
    .lower(abstract[0], [raw] * config.train.updates_per_dispatch)
    .compile()
  )
  clock.lap("compile")
  if saved:
    trained = sharding.collect(mesh, saved.classifier)
    return _Session(saved.state, trained, step_fn, clock)

  classifier: types.PyTree = {}
  if run.classifier:
    reporter.say("training the evaluation classifier")
    classifier = train_classifier(config, run)
    clock.lap("classifier")
  init = jax.jit(lambda key: networks.init_state(key, config, run.setup))
  state = sharding.make(mesh, init, jax.random.key(config.seed))
  state = identity_start.pretrain(config, run, state, reporter, mesh)
  jax.block_until_ready(state)
  clock.lap("identity")
  return _Session(state, classifier, step_fn, clock)


def train_classifier(
  config: ml_collections.ConfigDict, run: build.Run
) -> types.PyTree:
  """Trains the evaluation classifier; its parameters are empty without one."""
  if run.classifier is None:
    return {}
  classifier, _ = classifier_lib.train_classifier(
    run.classifier,
    run.problem.images.image_NHWC,
    run.problem.images.label_N,
    run.problem.train_ids,
    seed=config.seed,
    **config.classifier,
  )
  return jax.block_until_ready(classifier)


def _batches(config, run, mesh, steps: range) -> Iterator[problem_lib.Raw]:
  """Yields the batches of some steps, on the devices that need them."""
  return problem_lib.batches(
    run.problem,
    seed=config.seed,
    steps=steps,
    batch_size=config.train.batch_size,
    process=sharding.process(mesh),
    place=functools.partial(sharding.place_images, mesh),
  )


def raw_step(
  state: types.TrainState,
  raw: problem_lib.Raw,
  *,
  run: build.Run,
  mesh: sharding.Mesh | None = None,
) -> tuple[types.TrainState, types.Metrics]:
  """Distorts a batch and updates experts and discriminator; to be jitted."""
  batch = problem_lib.make_batch(
    state.key, state.step, raw, run.mechanisms, run.augmentation
  )
  return sharding.competition_step(state, batch, setup=run.setup, mesh=mesh)


def raw_steps(
  state: types.TrainState,
  raws: Sequence[problem_lib.Raw],
  *,
  run: build.Run,
  mesh: sharding.Mesh | None = None,
) -> tuple[types.TrainState, types.Metrics]:
  """Makes one update for each of several batches, in one function to jit.

  Args:
    state: state before the first update.
    raws: batches of consecutive steps.
    run: parts of the run.
    mesh: devices of the run; None is one device.

  Returns:
    The state after the last update, and metrics with a leading axis of updates.
  """
  if len(raws) == 1:  # Without a loop, because XLA is slow in loops on CPU.
    state, step_metrics = raw_step(state, raws[0], run=run, mesh=mesh)
    return state, jax.tree.map(lambda a: a[None], step_metrics)
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *raws)
  step = functools.partial(raw_step, run=run, mesh=mesh)
  return jax.lax.scan(step, state, stacked)


def _compete(
  config, run, mesh, session, checkpoints, writer, reporter, stop_requested
) -> _Session:
  """Runs the remaining steps."""
  state, classifier, step_fn, clock = session
  first, total = int(state.step), config.train.steps
  stride = config.train.updates_per_dispatch
  raws = _batches(config, run, mesh, range(first, total))
  scores: dict[int, float] = {}

  def evaluate(state):
    values = run.curve.evaluate(sharding.collect(mesh, state), classifier)
    scores[int(state.step)] = float(values["matched"])
    return values

  def save(state):
    score = scores.get(int(state.step))
    checkpoints.save(_saved(config, mesh, session._replace(state=state), score))

  loop = train_loop.TrainLoop(
    update=lambda state: step_fn(state, [next(raws) for _ in range(stride)]),
    evaluate=evaluate,
    save=save,
    every=config.every,
    clock=clock,
    writer=writer,
    reporter=reporter,
    stop_requested=train_loop.AnyProcess(
      stop_requested, every=max(1, config.every.log // stride)
    ),
  )
  if first == 0 and config.every.evaluate:
    loop.write_evaluation(state, 0)
  state = loop.run(state, first, total, stride=stride)
  return session._replace(state=state)


def _saved(config, mesh, session: _Session, score=None) -> checkpoint.Saved:
  return checkpoint.Saved(
    session.state,
    sharding.replicate(mesh, session.classifier),
    {
      "config": run_folder.plain_config(config),
      "seconds": dict(session.clock.seconds),
      checkpoint.SCORE: score,
    },
  )
