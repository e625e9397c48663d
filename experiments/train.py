"""Trains an experiment, evaluates it and draws its report.

  python -m experiments.train --config=experiments/configs/mnist.py \
      --workdir=runs/mnist

Every value of the config is a flag: --config.train.steps=1000. The program
writes config.json, metrics.jsonl, tensorboard/, checkpoints/, result.json and
report.html to the folder; --resume continues an interrupted run, and
--resume=auto continues a run if the folder holds one, and else starts it.
--seeds=0-7 trains eight seeds at once, each in a folder of its own below
--workdir.
"""

import time

_STARTED = time.perf_counter()  # Before the imports, which take seconds.

# ruff: noqa: E402
import pathlib
from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments import console, kinds, launch, processes, runs
from icm_jax import kernels, types
from icm_jax.training import run_folder, seeds_run, train_loop

launch.define_workdir()
processes.define_flags()
_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_RESUME = launch.define_resume()
_SEEDS = flags.DEFINE_string(
  "seeds",
  "",
  "Seeds that are trained at once, such as 0-7, each in WORKDIR/seed_N.",
)
flags.mark_flag_as_required("config")


def main() -> None:
  kernels.keep_memory()
  kind = kinds.from_config(_CONFIG.value)
  kinds.check_keys(_CONFIG.value)
  processes.start()
  is_first = processes.is_first()
  reporter = console.reporter() if is_first else train_loop.Silent()
  how = dict(reporter=reporter, started=_STARTED)
  if _SEEDS.value:
    _train_seeds(kind, how)
    return
  resume = _resumes(launch.workdir())
  result = kind.train(_CONFIG.value, launch.workdir(), resume=resume, **how)
  if not is_first:
    return
  page = kind.write_report(launch.workdir())
  reporter.say(kind.headline(result))
  reporter.say(f"open {page}")


def _resumes(folder: pathlib.Path) -> bool:
  """Whether to continue the run of a folder."""
  if _RESUME.value == launch.AUTO:
    return run_folder.holds_run(folder)
  return _RESUME.value


def _train_seeds(kind: kinds.Kind, how: dict[str, Any]) -> None:
  if kind.train_seeds is None:
    raise types.InputError(
      f"--seeds needs a config of images; got one of {_CONFIG.value.kind}."
    )
  seeds = runs.parse_seeds(_SEEDS.value)
  folders = [seeds_run.folder_of(launch.workdir(), seed) for seed in seeds]
  resume = [_resumes(folder) for folder in folders]
  results = kind.train_seeds(
    _CONFIG.value, launch.workdir(), seeds, resume=resume, **how
  )
  for seed, folder, result in zip(seeds, folders, results, strict=True):
    page = kind.write_report(folder)
    how["reporter"].say(f"seed {seed}: {kind.headline(result)}; open {page}")


if __name__ == "__main__":
  launch.run(main)
