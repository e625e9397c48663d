"""A sequence experiment from its config to its result.

The models of a config are trained one after another, each on the same batches,
so that a checkpoint holds them all, and a run that was cut off goes on in the
middle of any of them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import pathlib
import time
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from icm_jax import rng, types
from icm_jax.training import (
  atomic_files,
  checkpoint,
  metrics,
  run_folder,
  run_result,
  train_loop,
)
from icm_jax.training import sequence_setup as setup_lib

if TYPE_CHECKING:
  import ml_collections

# Sequences whose RIMs the report draws.
_WATCHED = 3


def train(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  *,
  resume: bool = False,
  reporter: train_loop.Reporter | None = None,
  started: float | None = None,
) -> dict[str, Any]:
  """Trains all models, evaluates and writes everything but the report.

  Args:
    config: as `experiments/configs/rim_copying.py` documents it.
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
  reporter = reporter or train_loop.Silent()
  run_folder.claim(workdir, config, resume=resume)
  run = setup_lib.build(config, progress=reporter.prepare)
  reporter.say(
    f"{run.task.name}: {', '.join(run.task.variants)}; "
    f"{config.train.updates} updates of each of {', '.join(run.networks)}"
  )
  with (
    run_folder.hold(workdir, config, {"variants": list(run.task.variants)}),
    contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints,
    train_loop.stop_requests() as stop_requested,
  ):
    saved = None
    if checkpoints.steps():
      saved = checkpoints.read_newest(setup_lib.abstract_state(config, run), {})
      reporter.say(f"resuming at step {int(saved.state.step)}")
      state = saved.state
    else:
      init = jax.jit(functools.partial(setup_lib.init_state, run=run))
      state = init(jax.random.key(config.seed))
    clock = train_loop.Clock(
      started, saved.progress["seconds"] if saved else {}
    )
    clock.lap("start")
    writer = metrics.MetricWriter(workdir, last_step=int(state.step) or -1)
    with contextlib.closing(writer):
      state = _train_models(
        config, run, state, clock, checkpoints, writer, reporter, stop_requested
      )
    reporter.say("evaluating")
    result = measure(workdir, config, run, state)
    clock.lap("evaluate")
    checkpoints.save(_saved(config, state, clock))
    return run_result.write(workdir, result, clock.seconds)


def update(
  state: setup_lib.SequenceState,
  *,
  name: str,
  run: setup_lib.SequenceRun,
  batch_size: int,
  updates: int,
) -> tuple[setup_lib.SequenceState, types.Metrics]:
  """One update of one model on a batch of its own step; to be jitted.

  Args:
    state: whose step counts updates of all models.
    name: of the model that learns.
    run: the task, the models and their optimizer.
    batch_size: sequences.
    updates: of each model; every one sees the same batches in the same order.

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
  updates_, opt = run.tx.update(grads, state.opt[name], state.params[name])
  params = optax.apply_updates(state.params[name], updates_)
  state = state.replace(
    step=state.step + 1,
    params={**state.params, name: params},
    opt={**state.opt, name: opt},
  )
  return state, {f"loss/{name}": loss[None]}


class Tests:
  """What models are measured on: the same sequences for all of them."""

  def __init__(
    self, run: setup_lib.SequenceRun, seed: int, examples: int, batch
  ):
    """Draws `examples` of each variant, or all that there are.

    Args:
      run: the task and the models.
      seed: of the run; another one draws other sequences.
      examples: of each variant.
      batch: sequences that a model reads at a time.
    """
    task, self._batch = run.task, batch
    examples = min(examples, task.test_examples or examples)
    draw = jax.jit(task.draw, static_argnums=(1, 2, 3))
    key = jax.random.key(seed)
    self.sequences = {
      variant: draw(
        rng.stream(key, f"test/{variant}"), variant, examples, "test"
      )
      for variant in task.variants
    }

    def measure(params, sequences, network):
      apply = functools.partial(network.apply, params)
      return task.measure(apply, sequences)

    self._measures = {
      name: jax.jit(functools.partial(measure, network=network))
      for name, network in run.networks.items()
    }

  def measure(self, name: str, params: types.PyTree) -> dict[str, float]:
    """The mean measure of a model by variant."""
    values = {}
    for variant, sequences in self.sequences.items():
      parts = [
        self._measures[name](
          params, jax.tree.map(lambda a, i=i: a[i : i + self._batch], sequences)
        )
        for i in range(0, len(sequences.x_BTF), self._batch)
      ]
      values[variant] = float(np.mean(np.concatenate(jax.device_get(parts))))
    return values


def _train_models(
  config, run, state, clock, checkpoints, writer, reporter, stop_requested
) -> setup_lib.SequenceState:
  """Runs the remaining updates of all models."""
  updates = config.train.updates
  total = updates * len(run.networks)
  tests = Tests(
    run,
    config.seed,
    config.evaluation.curve_examples,
    config.evaluation.batch_size,
  )
  for index, name in enumerate(run.networks):
    last = (index + 1) * updates
    if int(state.step) >= last:
      continue
    reporter.say(f"compiling {name}")
    step_fn = jax.jit(
      functools.partial(
        update,
        name=name,
        run=run,
        batch_size=config.train.batch_size,
        updates=updates,
      ),
      donate_argnames=("state",),
    )
    step_fn = step_fn.lower(state).compile()
    clock.lap("compile")
    loop = train_loop.TrainLoop(
      update=step_fn,
      evaluate=functools.partial(_evaluate, name=name, tests=tests),
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


def _evaluate(state, *, name, tests):
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


def measure(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  run: setup_lib.SequenceRun,
  state: setup_lib.SequenceState,
) -> dict[str, Any]:
  """Evaluates models on all variants; writes what their RIMs do.

  Models whose training has not begun are left out.

  Returns:
    `result.json` without its times: `test`, the measure of each model on the
    hardest variant; `table`, the measures on all of them; of each model its
    number of `updates` and of `parameters`.
  """
  task = run.task
  done = [
    int(state.step) - index * config.train.updates
    for index in range(len(run.networks))
  ]
  updates = {
    name: min(number, config.train.updates)
    for name, number in zip(run.networks, done, strict=True)
    if number > 0
  }
  run = run._replace(networks={name: run.networks[name] for name in updates})
  tests = Tests(
    run, config.seed, config.evaluation.examples, config.evaluation.batch_size
  )
  table = {
    name: tests.measure(name, state.params[name]) for name in run.networks
  }
  _write_activity(workdir, run, state, tests)
  return {
    "config": run_folder.plain_config(config),
    "seed": config.seed,
    "task": task.name,
    "measure": task.measure_name,
    "higher_is_better": task.higher_is_better,
    "steps": int(state.step),
    "examples": {
      variant: len(s.x_BTF) for variant, s in tests.sequences.items()
    },
    "variants": list(task.variants),
    "test": {name: line[task.variants[-1]] for name, line in table.items()},
    "table": table,
    "updates": updates,
    "parameters": {
      name: sum(leaf.size for leaf in jax.tree.leaves(state.params[name]))
      for name in run.networks
    },
  }


def evaluate_checkpoint(workdir: pathlib.Path) -> dict[str, Any]:
  """Measures the newest checkpoint of a run again.

  Returns:
    What `result.json` now holds.

  Raises:
    InputError: `workdir` holds no run, or no checkpoint that can be read.
  """
  config = run_folder.read(workdir).config
  run = setup_lib.build(config)
  with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
    saved = checkpoints.read_newest(setup_lib.abstract_state(config, run), {})
  result = measure(workdir, config, run, saved.state)
  return run_result.write(
    workdir, result, run_result.seconds_of(workdir, result, saved)
  )


def _write_activity(workdir, run, state, tests) -> None:
  """Which RIMs were active, and looked where, on a few sequences."""
  arrays = {}
  for name, network in run.networks.items():
    if network.watch is not None:
      for index, variant in enumerate(run.task.variants):
        x_BTF = tests.sequences[variant].x_BTF[:_WATCHED]
        watched = jax.device_get(
          jax.jit(network.watch)(state.params[name], x_BTF)
        )
        arrays[f"{name}/active_BTR/{index}"] = watched.active_BTR
        arrays[f"{name}/null_BTR/{index}"] = watched.null_BTR
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  atomic_files.write_bytes(workdir / run_folder.EXAMPLES, buffer.getvalue())
