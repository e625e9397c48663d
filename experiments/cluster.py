"""Runs of a sweep as jobs of a SLURM cluster, through submitit.

The program submits one array of jobs and ends, as `sbatch` does: a sweep may
take days, and login nodes are no place to wait for it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence

from absl import flags

from experiments import job, runs
from icm_jax import programs, types

SLURM = "slurm"
_FOLDER = "slurm"  # In the sweep's folder: scripts, jobs and logs of submitit.
_ID = ".job"  # Suffix of the file with the number of a run's job.
# Options of submitit; all others are those of `sbatch`.
_COUNTS = ("array_parallelism", "signal_delay_s")
# Options of `sbatch` that are not free.
_TAKEN = ("array", "signal")
_MOST_TIMEOUTS = 1000  # After as many, a job is not queued again.
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def define_flags() -> None:
  """Defines the flags `--cluster` and `--slurm`."""
  flags.DEFINE_enum(
    "cluster", None, [SLURM], "Submit every run as a job instead of running it."
  )
  flags.DEFINE_multi_string(
    "slurm",
    [],
    "An option of sbatch as NAME=VALUE, such as time=4:00:00, partition=gpu, "
    "gpus_per_node=1, cpus_per_task=8, mem=16G or account=NAME; or "
    "array_parallelism=N, the largest number of jobs at a time; repeatable.",
  )


def submit(
  root: pathlib.Path,
  plans: Sequence[runs.Planned],
  options: Sequence[str],
  say: Callable[[str], None],
) -> None:
  """Submits a job for each run that is neither finished nor submitted.

  Args:
    root: folder of the sweep.
    plans: all runs of the sweep.
    options: values of the flag `--slurm`.
    say: prints a line.

  Raises:
    InputError: submitit or SLURM is missing, an option has no valid form, or
      SLURM refuses the jobs.
  """
  parameters = read_options(options)
  if importlib.util.find_spec("submitit") is None:
    raise types.InputError(
      '--cluster=slurm needs submitit; run: pip install "icm-jax[slurm]"'
    )
  if shutil.which("sbatch") is None:
    raise types.InputError(
      "--cluster=slurm needs the command sbatch, which this machine lacks; "
      "start the sweep on a login node of the cluster, or without --cluster."
    )
  todo = [planned for planned in plans if not runs.is_finished(planned)]
  active = _active_jobs()
  finished = len(plans) - len(todo)
  todo = [planned for planned in todo if _job_of(planned) not in active]
  waiting = len(plans) - finished - len(todo)
  say(
    f"{finished} of {len(plans)} runs are finished already, {waiting} are "
    "queued or running"
  )
  if todo:
    numbers = _submit(root, todo, parameters)
    for planned, number in zip(todo, numbers, strict=True):
      planned.run.workdir.parent.mkdir(parents=True, exist_ok=True)
      planned.run.workdir.with_suffix(_ID).write_text(f"{number}\n")
    array = numbers[0].partition("_")[0]
    say(f"submitted {len(todo)} runs as job {array}: squeue --job={array}")
  say("at the end, the same command with --gather writes results and page")


def read_options(options: Sequence[str]) -> dict[str, object]:
  """Reads values of the flag `--slurm`; returns parameters of submitit.

  Raises:
    InputError: an option is no NAME=VALUE, is not free or is not a number where
      it must be one; or there is no time limit.
  """
  given: dict[str, object] = {}
  for text in options:
    name, equals, value = text.partition("=")
    name = name.lstrip("-").replace("-", "_")
    if not re.fullmatch(r"[a-z]\w*", name) or (equals and not value):
      raise types.InputError(
        f"--slurm must be an option of sbatch as NAME=VALUE; got {text!r}."
      )
    if name in _TAKEN:
      raise types.InputError(
        f"--slurm={text} is not possible: the sweep sets {name} itself; "
        "array_parallelism=N is the largest number of jobs at a time."
      )
    given[name] = value if equals else True
  minutes = _minutes(str(given.get("time", "")))
  parameters = {"slurm_time": minutes}
  for name in _COUNTS:
    if name in given:
      value = str(given.pop(name))
      if not re.fullmatch(r"[1-9]\d*", value):
        raise types.InputError(
          f"--slurm={name} must be a positive number; got {value!r}."
        )
      parameters[f"slurm_{name}"] = int(value)
  # The cluster may be set up to queue no job again.
  return {
    **parameters,
    "slurm_additional_parameters": {"requeue": True, **given},
  }


def _minutes(text: str) -> int:
  """Reads a time limit as `sbatch` does; returns minutes, rounded up."""
  match = _TIME.fullmatch(text)
  if not match:
    raise types.InputError(
      "--slurm=time=LIMIT is needed, the time limit of a job as sbatch takes "
      "it: MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS. A run that needs "
      f"longer is queued again. Got {text!r}."
    )
  days, *parts = match.groups()
  first, second, third = (int(part or 0) for part in parts)
  if days is not None:
    seconds = ((int(days) * 24 + first) * 60 + second) * 60 + third
  elif parts[2] is not None:
    seconds = (first * 60 + second) * 60 + third
  else:
    seconds = first * 60 + second
  return max(1, -(-seconds // 60))


def _active_jobs() -> set[str]:
  """Numbers of the user's jobs that wait or run."""
  done = subprocess.run(
    ["squeue", "--me", "--array", "--noheader", "--format=%i"],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise types.InputError(f"SLURM does not answer: {_one_line(done.stderr)}")
  return set(done.stdout.split())


def _job_of(planned: runs.Planned) -> str:
  """Number of the run's newest job; "" if there was none."""
  path = planned.run.workdir.with_suffix(_ID)
  return path.read_text().strip() if path.exists() else ""


def _submit(
  root: pathlib.Path,
  todo: Sequence[runs.Planned],
  parameters: dict[str, object],
) -> list[str]:
  """Submits an array of jobs; returns their numbers."""
  import submitit

  executor = submitit.AutoExecutor(
    root / _FOLDER, cluster=SLURM, slurm_max_num_timeout=_MOST_TIMEOUTS
  )
  # A job must find this package from any folder.
  folder = shlex.quote(str(programs.folder()))
  executor.update_parameters(
    name=root.resolve().name,
    slurm_setup=[f"export PYTHONPATH={folder}${{PYTHONPATH:+:$PYTHONPATH}}"],
    **parameters,
  )
  functions = [job.Job(runs.command(p), runs.log_of(p)) for p in todo]
  try:
    # submitit prints what `sbatch` says, besides raising it.
    with contextlib.redirect_stderr(io.StringIO()):
      jobs = executor.submit_array(functions)
  except submitit.core.utils.FailedJobError as error:
    raise types.InputError(
      f"sbatch refuses the jobs: {_one_line(str(error))}"
    ) from error
  return [one.job_id for one in jobs]


def _one_line(text: str) -> str:
  return "; ".join(text.strip().splitlines()) or "no reason given"
