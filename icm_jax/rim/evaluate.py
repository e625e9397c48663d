"""Measures networks on all variants of their task."""

from __future__ import annotations

import functools
import io
import pathlib
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from icm_jax import rng, types
from icm_jax.data import skipped
from icm_jax.rim import build
from icm_jax.training import atomic_files, checkpoint, run_folder, run_result

if TYPE_CHECKING:
  import ml_collections

# Number of test sequences per variant whose activity is stored for the report.
_WATCHED = 3


class Tests:
  """Sequences of all variants for measures, the same for all networks."""

  def __init__(
    self, run: build.Run, *, seed: int, examples: int, batch_size: int
  ):
    """Draws the sequences.

    Args:
      run: the task and the networks.
      seed: seed of the run; the sequences depend on it and on `run.measured`.
      examples: sequences of each variant, or fewer if the task has fewer.
      batch_size: sequences that a network reads at a time.
    """
    task, self._batch_size = run.task, batch_size
    examples = min(examples, task.test_examples or examples)
    draw = jax.jit(task.draw, static_argnums=(1, 2, 3))
    key = jax.random.key(seed)
    self.sequences = {
      variant: draw(
        rng.stream(key, f"{run.measured}/{variant}"),
        variant,
        examples,
        "test",
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
    """Returns the mean measure of a network on each variant."""
    size = self._batch_size
    values = {}
    for variant, sequences in self.sequences.items():
      parts = [
        self._measures[name](
          params, jax.tree.map(lambda a, i=i: a[i : i + size], sequences)
        )
        for i in range(0, len(sequences.x_BTF), size)
      ]
      values[variant] = float(np.mean(np.concatenate(jax.device_get(parts))))
    return values


def measure(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  run: build.Run,
  state: build.State,
) -> dict[str, Any]:
  """Measures networks on all variants, and stores the activity of RIMs.

  Networks whose training has not begun are left out.

  Returns:
    The content of `result.json` without its times: `test`, the measure of each
    network on the hardest variant; `table`, its measures on all variants;
    `updates` and `parameters`, the numbers of its updates and parameters; and
    descriptions of the run.
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
    run,
    seed=config.seed,
    examples=config.evaluation.examples,
    batch_size=config.evaluation.batch_size,
  )
  table = {
    name: tests.measure(name, state.params[name]) for name in run.networks
  }
  _write_activity(workdir, run, state, tests)
  return {
    "config": run_folder.plain_config(config),
    "seed": config.seed,
    "task": task.name,
    "measured": run.measured,
    "skipped_by_reason": skipped.by_reason(task.skipped),
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
  """Measures the newest checkpoint of a run again, and writes `result.json`.

  Returns:
    The new content of `result.json`.

  Raises:
    InputError: `workdir` holds no run, a run that saw other data, or no
      checkpoint that can be read.
  """
  config = run_folder.read(workdir).config
  run = build.build_run(config)
  run_folder.check_saw(workdir, build.saw(run))
  saved = checkpoint.read(workdir, build.abstract_state(config, run), {})
  result = measure(workdir, config, run, saved.state)
  seconds = run_result.seconds_of(workdir, result, saved)
  return run_result.write(workdir, result, seconds)


def _write_activity(workdir, run, state, tests) -> None:
  """Stores which RIMs were active on a few sequences of each variant."""
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
