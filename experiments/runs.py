"""Plans many runs before the first one starts, and runs them in parallel."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments import job, launch
from icm_jax import types
from icm_jax.training import run_folder, train_loop
from icm_jax.viz import sweep

# A run can use two or more cores.
DEFAULT_JOBS = max(1, (os.cpu_count() or 1) // 2)
_POLL_S = 0.5  # Seconds between checks for a request to stop.


class Planned(NamedTuple):
  """A run of the sweep.

  Attributes:
    run: variant, seed and folder of the run.
    arguments: arguments of `icm train`, without the folder.
    config: the config with these arguments.
  """

  run: sweep.SweepRun
  arguments: tuple[str, ...]
  config: ml_collections.ConfigDict


def parse_seeds(text: str) -> list[int]:
  """Reads seeds in the form `0-9`, `4`, `0,3,5` or `0-2,7`.

  Raises:
    InputError: the text has none of these forms, or names no seed.
  """
  seeds = []
  for part in text.split(","):
    match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
    if not match:
      raise types.InputError(
        f"--seeds must have the form 0-9 or 0,3,5; got {text!r}."
      )
    first, last = int(match[1]), int(match[2] or match[1])
    seeds += range(first, last + 1)
  if not seeds:
    raise types.InputError(f"--seeds={text} names no seed.")
  return list(dict.fromkeys(seeds))


def plan(
  root: pathlib.Path,
  config: str,
  shared: Sequence[str],
  overrides: Sequence[str],
  seeds: Sequence[int],
) -> list[Planned]:
  """Plans the runs of a sweep; reads every variant's config.

  Args:
    root: folder of the sweep.
    config: file and mode of the config.
    shared: `name=value` pairs of all variants.
    overrides: `name=value` pairs of each variant, separated by spaces.
    seeds: seeds of every variant.

  Raises:
    InputError: an override is no `name=value`, two variants are the same, or
      a folder holds a run of another format.
  """
  config, variants = launch.config_path(config), {}
  for text in overrides:
    pairs = text.split()
    for pair in pairs:
      if not re.fullmatch(r"[\w.]+=.*", pair):
        raise types.InputError(
          f"--override={text!r} must be name=value pairs; got {pair!r}."
        )
    name = " ".join(pairs) or sweep.PLAIN
    folder = re.sub(r"[^\w.=-]+", "_", name)
    if folder in variants:
      raise types.InputError(f"--override={text!r} is given twice.")
    variants[folder] = (name, pairs)
  return [
    _plan_run(
      sweep.SweepRun(name, seed, root / folder / f"seed_{seed}"),
      config,
      (*shared, *pairs, f"seed={seed}"),
    )
    for folder, (name, pairs) in variants.items()
    for seed in seeds
  ]


def _plan_run(run, config, pairs) -> Planned:
  if run_folder.holds_run(run.workdir):
    run_folder.read(run.workdir)  # Checks the format.
  # The last value of a name wins; as flags, two tuples would be joined.
  values = dict(pair.split("=", 1) for pair in pairs)
  pairs = [f"--config.{name}={value}" for name, value in values.items()]
  arguments = (f"--config={config}", *pairs)
  parsed = flags.FlagValues()
  config_flags.DEFINE_config_file(
    "config", lock_config=True, flag_values=parsed, sys_argv=["", *arguments]
  )
  try:
    parsed(["", *arguments])
    return Planned(run, arguments, parsed["config"].value)
  # ml_collections raises many kinds of errors for invalid names or values.
  except Exception as error:
    raise types.InputError(
      f"The variant {run.variant!r} is not valid: {launch.one_line(error)}"
    ) from error


def is_finished(planned: Planned) -> bool:
  """Whether the run's folder contains the result of the same config."""
  try:
    result = run_folder.read_result(planned.run.workdir)
  except types.InputError:  # The run goes on, and writes it again.
    return False
  return result is not None and (
    result["config"]
    == run_folder.plain_config(run_folder.absolute(planned.config))
  )


def command(planned: Planned) -> list[str]:
  """Returns the command that starts or resumes a run."""
  program = [sys.executable, "-m", "icm_jax.programs", "train"]
  folder = f"--workdir={planned.run.workdir}"
  return [*program, *planned.arguments, folder, "--resume=auto"]


def log_of(planned: Planned) -> pathlib.Path:
  """Returns the file of what a run writes, beside its folder."""
  return planned.run.workdir.with_suffix(".log")


def start(planned: Planned, running: set[subprocess.Popen]) -> str:
  """Starts or resumes a run, and waits for its end.

  Args:
    planned: the run.
    running: set that contains the process while it runs.

  Returns:
    "" if the run succeeded, else the last line that it wrote.
  """
  log = log_of(planned)
  # In a session of its own, a run gets only the signal that is passed on. A
  # second signal would kill it before it has saved.
  with job.start(command(planned), log) as process:
    running.add(process)
    code = process.wait()
    running.remove(process)
  return job.problem(code, log)


def run_all(
  plans: Sequence[Planned], jobs: int, say: Callable[[str], None]
) -> int:
  """Runs all unfinished runs; returns the number of failed ones.

  Raises:
    Interrupted: SIGINT or SIGTERM was received, and all runs have saved their
      checkpoints.
  """
  todo = [planned for planned in plans if not is_finished(planned)]
  say(f"{len(plans) - len(todo)} of {len(plans)} runs are finished already")
  failed, running = 0, set()
  with (
    train_loop.stop_requests() as stop_requested,
    concurrent.futures.ThreadPoolExecutor(jobs) as pool,
  ):
    waiting = {
      pool.submit(start, planned, running): planned.run for planned in todo
    }
    while waiting:
      done, _ = concurrent.futures.wait(
        waiting, _POLL_S, concurrent.futures.FIRST_COMPLETED
      )
      if stop_requested.is_set():
        pool.shutdown(wait=False, cancel_futures=True)
        told = set()
        while any(future.running() for future in waiting):
          for process in running - told:
            process.terminate()
            told.add(process)
          time.sleep(_POLL_S)
        raise train_loop.Interrupted(
          "Stopped; the same command resumes the interrupted runs.",
          stop_requested.signal,
        )
      for future in done:
        run, problem = waiting.pop(future), future.result()
        failed += bool(problem)
        say(
          f"{len(todo) - len(waiting)}/{len(todo)} {run.variant}, seed "
          f"{run.seed}: {problem or 'done'}"
        )
  return failed
