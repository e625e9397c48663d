"""The result of a run: `result.json`, and the images that the report shows."""

from __future__ import annotations

import functools
import io
import pathlib
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from icm_jax import competition, types, versions
from icm_jax.data import skipped
from icm_jax.evaluation import (
  chains,
  evaluator,
  evaluators,
  specialisation,
)
from icm_jax.training import (
  atomic_files,
  build,
  checkpoint,
  networks,
  run_folder,
)

if TYPE_CHECKING:
  import ml_collections

# Rows of a group in the picture of examples.
_EXAMPLES_PER_GROUP = 4


def measure(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  run: build.Run,
  state: types.TrainState,
  classifier: types.PyTree,
) -> dict[str, Any]:
  """Measures a state on the test part, and writes the report's images.

  Args:
    workdir: folder of the run.
    config: config of the run.
    run: parts of the run.
    state: state of the run.
    classifier: parameters of the evaluation classifier; empty without one.

  Returns:
    The content of `result.json` without its times. `psnr_db` is None if images
    have no originals, `classifier` also if they have no classes. `margin` is
    that of `chains.find_margin`, None if no evaluator needs it; evaluators that
    the config does not ask for are None. `found_steps` are as exact as
    evaluations during training were frequent, and None for mechanisms without
    an expert of their own.
  """
  values = run.final.evaluate(state, classifier)
  if jax.process_index() == 0:
    _write_examples(workdir, run, state)
  wins_EM = values["wins_EM"]
  names = run.mechanism_names
  margin = functools.partial(
    chains.margin_of_run, config, run.problem, state, setup=run.setup
  )
  return {
    "config": run_folder.plain_config(config),
    "seed": config.seed,
    "data": {
      "name": run.problem.name,
      "transformed": len(run.problem.transformed_ids),
      "canonical": len(run.problem.canonical_ids),
      "test": len(run.problem.test_ids),
      "evaluated": len(run.final.examples.mechanism_N),
      "unused": run.problem.num_unused,
      "skipped": len(run.problem.skipped),
      "skipped_by_reason": skipped.by_reason(run.problem.skipped),
    },
    "steps": int(state.step),
    "mechanisms": list(names),
    "experts": len(wins_EM),
    "wins": wins_EM.tolist(),
    "coverage": values["coverage"],
    "matched": values["matched"],
    "one_to_one": specialisation.one_to_one(wins_EM),
    "active_experts": int(specialisation.active(wins_EM).sum()),
    "found_steps": _found_steps(workdir, names, int(state.step)),
    "classifier": _recognised(names, values),
    **evaluators.measure(
      run.evaluators, state, classifier, wins_EM, evaluator.Once(margin)
    ),
    "psnr_db": None
    if "psnr_db_M" not in values
    else dict(zip(names, values["psnr_db_M"].tolist(), strict=True)),
  }


def _found_steps(workdir, names, last_step) -> dict[str, int | None]:
  """Returns steps by mechanism; all None without evaluations in the metrics."""
  rows = [
    row
    for row in run_folder.read_metrics(workdir)
    if "evaluation/wins_EM" in row and row["step"] <= last_step
  ]
  if not rows:
    return dict.fromkeys(names)
  found = specialisation.found_steps(
    [row["step"] for row in rows],
    np.array([row["evaluation/wins_EM"] for row in rows]),
  )
  return dict(zip(names, found, strict=True))


def _recognised(names, values) -> dict[str, Any] | None:
  """Returns accuracies of the classifier; None if there is no classifier."""
  if "accuracy/clean_M" not in values:
    return None
  accuracy = {
    view: values[f"accuracy/{view}_M"]
    for view in ("clean", "transformed", "restored")
  }
  return {
    **{view: float(acc_M.mean()) for view, acc_M in accuracy.items()},
    "per_mechanism": {
      name: {view: float(acc_M[m]) for view, acc_M in accuracy.items()}
      for m, name in enumerate(names)
    },
  }


def write(
  workdir: pathlib.Path, result: dict[str, Any], seconds: Mapping[str, float]
) -> dict[str, Any]:
  """Writes `result.json` with times and versions; one of several processes.

  Args:
    workdir: folder of the run.
    result: result of `measure`.
    seconds: seconds by stage, see `train_loop.Clock`.

  Returns:
    The content of `result.json`.
  """
  stages = ("start", "compile", "classifier", "identity", "train", "evaluate")
  result = {
    **result,
    "time": {
      f"{stage}_s": round(seconds.get(stage, 0.0), 3)
      for stage in (*stages, "total")
    },
    "versions": {
      "python": platform.python_version(),
      "backend": jax.default_backend(),
      **versions.of_packages(),
      "commit": versions.commit(),
    },
  }
  if jax.process_index() == 0:
    atomic_files.write_json(workdir / run_folder.RESULT, result)
  return result


def evaluate_checkpoint(workdir: pathlib.Path) -> dict[str, Any]:
  """Measures the newest checkpoint of a run again.

  Returns:
    The new content of `result.json`.

  Raises:
    InputError: `workdir` holds no run, a run that saw other data, or no
      checkpoint that can be read.
  """
  config = run_folder.read(workdir).config
  run = build.build(config)
  run_folder.check_saw(workdir, build.saw(config, run))
  saved = read_checkpoint(workdir, config, run)
  result = measure(workdir, config, run, saved.state, saved.classifier)
  return write(workdir, result, seconds_of(workdir, result, saved))


def seconds_of(
  workdir: pathlib.Path, result: Mapping[str, Any], saved: checkpoint.Saved
) -> dict[str, float]:
  """Returns seconds by stage of a run that is evaluated again.

  These are the seconds of the whole run if it has ended, otherwise the seconds
  until the checkpoint.

  Args:
    workdir: folder of the run.
    result: new result of `measure`.
    saved: checkpoint that was measured.
  """
  try:
    old = run_folder.read_result(workdir)
  except types.InputError:  # It is written again.
    old = None
  if old and old["steps"] == result["steps"]:
    return {k.removesuffix("_s"): v for k, v in old["time"].items()}
  return saved.progress["seconds"]


def read_checkpoint(
  workdir: pathlib.Path, config: ml_collections.ConfigDict, run: build.Run
) -> checkpoint.Saved:
  """Reads the newest checkpoint of a run.

  Raises:
    InputError: no checkpoint can be read.
  """
  return checkpoint.read(
    workdir, *networks.abstract_state(config, run.setup, run.classifier)
  )


def _write_examples(workdir, run, state) -> None:
  """Writes examples of each mechanism, with every expert's output."""
  examples = run.final.examples
  # Attributes look different on every photograph, a shift does not.
  count = 1 if run.mechanisms else _EXAMPLES_PER_GROUP
  ids = np.concatenate(
    [
      np.flatnonzero(examples.mechanism_N == m)[:count]
      for m in range(len(run.mechanism_names))
    ]
  )
  restore = jax.jit(functools.partial(competition.restore, setup=run.setup))
  restored = jax.device_get(restore(state, examples.transformed_NHWC[ids]))
  buffer = io.BytesIO()
  np.savez_compressed(
    buffer,
    **(
      {}
      if examples.clean_NHWC is None
      else {"clean_MHWC": examples.clean_NHWC[ids]}
    ),
    mechanism_M=examples.mechanism_N[ids],
    transformed_MHWC=examples.transformed_NHWC[ids],
    output_EMHWC=restored.output_EBHWC,
    score_EM=restored.score_EB,
    winner_M=restored.winner_B,
  )
  atomic_files.write_bytes(workdir / run_folder.EXAMPLES, buffer.getvalue())
