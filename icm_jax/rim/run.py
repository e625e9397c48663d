"""Trains the networks of an experiment with RIMs.

The networks of a config are trained one after another on the same batches. A
checkpoint holds all of them, so a run that was interrupted can resume in the
middle of any network's training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import time
from typing import TYPE_CHECKING, Any

import jax
import optax

from icm_jax import rng, types
from icm_jax.data import skipped
from icm_jax.rim import build, evaluate
from icm_jax.training import (
  checkpoint,
  metrics,
  run_folder,
  run_result,
  train_loop,
)

if TYPE_CHECKING:
  import ml_collections


def update(
  state: build.State,
  *,
  name: str,
  run: build.Run,
  batch_size: int,
  updates: int,
) -> tuple[build.State, types.Metrics]:
  """Updates one network on the batch of its current update; to be jitted.

  Args:
    state: its step counts the updates of all networks.
    name: name of the network to update.
    run: the task, the networks and their optimizers.
    batch_size: sequences in a batch.
    updates: updates of each network; all see the same batches in the same
      order.

  Returns:
    The next state and `loss/NAME`, [1].
  """
  network, task = run.networks[name], run.task
  step = state.step % updates
  batch = task.draw(
    rng.stream(state.key, "batch", step), task.variants[0], batch_size, "train"
  )
  dropout = rng.stream(state.key, f"dropout/{name}", step)

  def objective(params):
    y_BTO = network.apply(params, batch.x_BTF, dropout)
    return task.loss(y_BTO, batch).mean()

  loss, grads = jax.value_and_grad(objective)(state.params[name])
  changes, opt = run.txs[name].update(
    grads, state.opt[name], state.params[name]
  )
  params = optax.apply_updates(state.params[name], changes)
  state = dataclasses.replace(
    state,
    step=state.step + 1,
    params={**state.params, name: params},
    opt={**state.opt, name: opt},
  )
  return state, {f"loss/{name}": loss[None]}


def train(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  *,
  resume: bool = False,
  reporter: train_loop.Reporter | None = None,
  started: float | None = None,
) -> dict[str, Any]:
  """Trains and measures all networks, and writes everything but the report.

  Args:
    config: config with the keys of `experiments/configs/rim_copying.py`.
    workdir: folder of the run; made if it does not exist.
    resume: whether to continue from the newest checkpoint in `workdir`.
    reporter: receives messages and progress.
    started: `time.perf_counter()` at the start of the process; None is now.

  Returns:
    The content of `result.json`.

  Raises:
    InputError: the config or the folder is wrong; nothing was trained yet.
    FloatingPointError: a loss is not finite; names the step.
    Interrupted: SIGINT or SIGTERM came during the updates, and a checkpoint is
      saved. At other times, signals keep their meaning.
  """
  if jax.process_count() > 1:
    raise types.InputError(
      "Sequence models are trained by one process; leave out --coordinator."
    )
  started = time.perf_counter() if started is None else started
  reporter = reporter or train_loop.Silent()
  config = run_folder.absolute(config)
  run_folder.claim(workdir, config, resume=resume)
  run = build.build_run(config, progress=reporter.prepare)
  reporter.say(
    f"{run.task.name}: {', '.join(run.task.variants)}; "
    f"{config.train.updates} updates of each of {', '.join(run.networks)}"
  )
  if run.task.skipped:
    reporter.say(skipped.describe(skipped.by_reason(run.task.skipped)))
  total = config.train.updates * len(run.networks)
  checkpoint.check_steps(workdir, total, "--config.train.updates")
  saw = build.saw(run)
  with train_loop.occupy(workdir, config, saw) as checkpoints:
    saved = None
    if checkpoints.steps():
      saved = checkpoints.read_newest(build.abstract_state(config, run), {})
      for line in checkpoints.passed_over():
        reporter.say(f"warning: {line}")
      reporter.say(f"resuming at step {int(saved.state.step)}")
      state = saved.state
    else:
      init = jax.jit(functools.partial(build.init_state, run=run))
      state = init(jax.random.key(config.seed))
    clock = train_loop.Clock(
      started, saved.progress["seconds"] if saved else {}
    )
    clock.lap("start")
    writer = metrics.MetricWriter(workdir, last_step=int(state.step) or -1)
    with (
      contextlib.closing(writer),
      train_loop.saves_before_it_stops(
        checkpoints.wait, reporter
      ) as stop_requested,
    ):
      state = _train_networks(
        config, run, state, clock, checkpoints, writer, reporter, stop_requested
      )
      checkpoints.save(_saved(config, state, clock))
    reporter.say("evaluating")
    result = evaluate.measure(workdir, config, run, state)
    clock.lap("evaluate")
    return run_result.write(workdir, result, clock.seconds)


def _train_networks(
  config, run, state, clock, checkpoints, writer, reporter, stop_requested
) -> build.State:
  """Runs the remaining updates of all networks."""
  updates = config.train.updates
  total = updates * len(run.networks)
  tests = evaluate.Tests(
    run,
    seed=config.seed,
    examples=config.evaluation.curve_examples,
    batch_size=config.evaluation.batch_size,
  )
  for index, name in enumerate(run.networks):
    last = (index + 1) * updates
    if int(state.step) >= last:
      continue
    reporter.say(f"compiling {name}")
    jitted = jax.jit(
      functools.partial(
        update,
        name=name,
        run=run,
        batch_size=config.train.batch_size,
        updates=updates,
      ),
      donate_argnames=("state",),
    )
    compiled = jitted.lower(state).compile()
    clock.lap("compile")
    loop = train_loop.TrainLoop(
      update=compiled,
      evaluate=functools.partial(_measure, name=name, tests=tests),
      save=lambda state: checkpoints.save(_saved(config, state, clock)),
      every=config.every,
      clock=clock,
      writer=writer,
      reporter=reporter,
      stop_requested=stop_requested,
    )
    state = loop.run(
      state, int(state.step), last, begin=last - updates, total=total
    )
  return state


def _measure(state, *, name, tests):
  values = tests.measure(name, state.params[name])
  return {f"{name}/{key}": value for key, value in values.items()}


def _saved(config, state, clock) -> checkpoint.Saved:
  return checkpoint.Saved(
    state,
    {},
    {
      "config": run_folder.plain_config(config),
      "seconds": dict(clock.seconds),
    },
  )
