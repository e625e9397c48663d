"""Trains an experiment, evaluates it and draws its report.

  python -m experiments.train --config=experiments/configs/mnist.py \
      --workdir=runs/mnist

Every value of the config is a flag: --config.train.steps=1000. The program
writes config.json, metrics.jsonl, tensorboard/, checkpoints/, result.json and
report.html to the folder; --resume continues an interrupted run. --seeds=0-7
trains eight seeds at once, each in a folder of its own below --workdir.
"""

import time

_STARTED = time.perf_counter()  # Before the imports, which take seconds.

# ruff: noqa: E402
from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments import console, kinds, launch, processes, runs
from icm_jax import types
from icm_jax.training import seeds_run, train_loop

launch.define_workdir()
processes.define_flags()
_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Continue from the newest checkpoint in --workdir."
)
_SEEDS = flags.DEFINE_string(
  "seeds",
  "",
  "Seeds that are trained at once, such as 0-7, each in WORKDIR/seed_N.",
)
flags.mark_flag_as_required("config")


def main() -> None:
  kind = kinds.from_config(_CONFIG.value)
  kinds.check_keys(_CONFIG.value)
  processes.start()
  is_first = processes.is_first()
  reporter = console.reporter() if is_first else train_loop.Silent()
  how = dict(resume=_RESUME.value, reporter=reporter, started=_STARTED)
  if _SEEDS.value:
    _train_seeds(kind, how)
    return
  result = kind.train(_CONFIG.value, launch.workdir(), **how)
  if not is_first:
    return
  page = kind.write_report(launch.workdir())
  reporter.say(kind.headline(result))
  reporter.say(f"open {page}")


def _train_seeds(kind: kinds.Kind, how: dict[str, Any]) -> None:
  if kind.train_seeds is None:
    raise types.InputError(
      f"--seeds needs a config of images; got one of {_CONFIG.value.kind}."
    )
  seeds = runs.parse_seeds(_SEEDS.value)
  results = kind.train_seeds(_CONFIG.value, launch.workdir(), seeds, **how)
  for seed, result in zip(seeds, results, strict=True):
    page = kind.write_report(seeds_run.folder_of(launch.workdir(), seed))
    how["reporter"].say(f"seed {seed}: {kind.headline(result)}; open {page}")


if __name__ == "__main__":
  launch.run(main)
