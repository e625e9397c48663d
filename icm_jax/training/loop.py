"""A run from its config to its result; the only code that writes meanwhile."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import competition, models, rng, types
from icm_jax.competition import average
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import classifier as classifier_lib
from icm_jax.training import checkpoint, metrics, results
from icm_jax.training import setup as setup_lib
from icm_jax.training import workdir as workdir_lib

if TYPE_CHECKING:
  import ml_collections


class Reporter(Protocol):
  """Tells a person how a run goes; the library itself prints nothing."""

  def say(self, text: str) -> None:
    """A line of text."""

  def progress(
    self, step: int, total: int, values: Mapping[str, np.ndarray]
  ) -> None:
    """The row of metrics of the steps up to `step`."""

  def prepare(self, what: str, done: int, total: int) -> None:
    """How far preparing the data is; total is 0 where it is not known."""


class Silent:
  """The reporter that reports nothing."""

  def say(self, text: str) -> None:
    del text

  def progress(
    self, step: int, total: int, values: Mapping[str, np.ndarray]
  ) -> None:
    del step, total, values

  def prepare(self, what: str, done: int, total: int) -> None:
    del what, done, total


class Interrupted(Exception):
  """The user stopped the run; all that was done is saved."""


class Clock:
  """Seconds by stage, added up over interrupted runs.

  Attributes:
    seconds: by stage: `start`, `compile`, `classifier`, `identity`, `train`,
      `evaluate`; and `total`, which holds what belongs to no stage too.
  """

  def __init__(self, started: float, seconds: Mapping[str, float]):
    """Goes on from `seconds`; `started` is a `time.perf_counter` value."""
    self._last = started
    self.seconds = dict(seconds)

  def lap(self, stage: str | None = None) -> None:
    """Books the time since the last lap."""
    now = time.perf_counter()
    for name in ("total", stage) if stage else ("total",):
      self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
    self._last = now


def due(step: int, every: int, total: int) -> bool:
  """True on multiples of `every` and on the last step; 0 means never."""
  return every > 0 and (step % every == 0 or step == total)


def train(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  *,
  resume: bool = False,
  reporter: Reporter | None = None,
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
  reporter = reporter or Silent()
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
    stop_requests() as stop_requested,
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
  clock: Clock


def _start(config, run, checkpoints, reporter, started) -> _Session:
  """Compiles, and restores a state or makes one that can copy images."""
  abstract = setup_lib.abstract_state(config, run)
  saved = None
  if checkpoints.steps():
    saved = checkpoints.restore(*abstract)
    reporter.say(f"resuming at step {int(saved.state.step)}")
  clock = Clock(started, saved.progress["seconds"] if saved else {})
  clock.lap("start")

  if jax.default_backend() == "cpu" and not models.is_compiled():
    reporter.say(
      "The convolutions were not compiled when the package was installed, for "
      "want of a C++ compiler perhaps; XLA's are several times slower on CPU."
    )
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
  reporter: Reporter,
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
  total = config.train.steps
  pending: list[types.Metrics] = []

  def write_evaluation(step):
    values = run.curve.evaluate(state, classifier)
    clock.lap("evaluate")
    writer.write(
      step,
      clock.seconds.get("train", 0.0),
      {f"evaluation/{name}": value for name, value in values.items()},
    )

  first_step = int(state.step)
  if first_step == 0 and config.every.evaluate:
    write_evaluation(0)
  raws = problem_lib.batches(
    run.problem,
    seed=config.seed,
    steps=range(first_step, total),
    batch_size=config.train.batch_size,
  )
  stride = config.train.updates_per_dispatch
  for step in range(first_step + stride, total + 1, stride):
    state, steps_metrics = step_fn(state, [next(raws) for _ in range(stride)])
    pending.append(steps_metrics)
    stop = stop_requested.is_set()
    save = due(step, config.every.checkpoint, total) or stop
    evaluate = due(step, config.every.evaluate, total)
    if due(step, config.every.log, total) or save or evaluate:
      rows = [
        jax.tree.map(lambda a, i=i: a[i], dispatched)
        for dispatched in jax.device_get(pending)
        for i in range(stride)
      ]
      row = metrics.summarise(step - len(rows) + 1, rows)
      pending = []
      clock.lap("train")
      writer.write(step, clock.seconds["train"], row)
      reporter.progress(step, total, row)
    if evaluate:
      write_evaluation(step)
    if save:
      session = _Session(state, classifier, step_fn, clock)
      checkpoints.save(_saved(config, session))
      clock.lap()
    if stop and step < total:
      raise Interrupted(f"Stopped after step {step}; go on with --resume.")
  return _Session(state, classifier, step_fn, clock)


def _saved(config, session: _Session) -> checkpoint.Saved:
  return checkpoint.Saved(
    session.state,
    session.classifier,
    {
      "config": workdir_lib.plain_config(config),
      "seconds": dict(session.clock.seconds),
    },
  )


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
  """Turns the first SIGINT or SIGTERM into a request; the second one kills.

  An exception in the middle of a step would leave its donated state unusable.
  """
  requested = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield requested  # Only the main thread may handle signals.
    return
  kinds = (signal.SIGINT, signal.SIGTERM)
  previous = {}

  def request(number, frame):
    del frame
    requested.set()
    signal.signal(number, previous[number])

  for kind in kinds:
    previous[kind] = signal.signal(kind, request)
  try:
    yield requested
  finally:
    for kind in kinds:
      signal.signal(kind, previous[kind])
