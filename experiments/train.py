"""Trains an experiment, evaluates it and draws its report.

  python -m experiments.train --config=experiments/configs/mnist.py \
      --workdir=runs/mnist

Every value of the config is a flag: --config.train.steps=1000. The program
writes config.json, metrics.jsonl, tensorboard/, checkpoints/, result.json and
report.html to the folder; --resume continues an interrupted run.
"""

import time

_STARTED = time.perf_counter()  # Before the imports, which take seconds.

# ruff: noqa: E402
from absl import flags
from ml_collections import config_flags

from experiments import console, kinds, launch, processes
from icm_jax.training import train_loop

launch.define_workdir()
processes.define_flags()
_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Continue from the newest checkpoint in --workdir."
)
flags.mark_flag_as_required("config")


def main() -> None:
  kind = kinds.from_config(_CONFIG.value)
  kinds.check_keys(_CONFIG.value)
  processes.start()
  is_first = processes.is_first()
  reporter = console.reporter() if is_first else train_loop.Silent()
  result = kind.train(
    _CONFIG.value,
    launch.workdir(),
    resume=_RESUME.value,
    reporter=reporter,
    started=_STARTED,
  )
  if not is_first:
    return
  page = kind.write_report(launch.workdir())
  reporter.say(kind.headline(result))
  reporter.say(f"open {page}")


if __name__ == "__main__":
  launch.run(main)
