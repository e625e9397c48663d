"""Trains an experiment, evaluates it and draws its report.

  python -m experiments.train --config=experiments/configs/mnist.py \
      --workdir=runs/mnist

Every value of the config is a flag: --config.train.steps=1000. The program
writes config.json, metrics.jsonl, tensorboard/, checkpoints/, result.json and
report.html to the folder; --resume continues an interrupted run, and
--resume=auto continues a run if the folder holds one, and else starts it.
"""

import time

_STARTED = time.perf_counter()  # Before the imports, which take seconds.

# ruff: noqa: E402
from absl import flags
from ml_collections import config_flags

from experiments import console, kinds, launch
from icm_jax.training import run_folder

launch.define_workdir()
_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_RESUME = launch.define_resume()
flags.mark_flag_as_required("config")


def main() -> None:
  kind = kinds.from_config(_CONFIG.value)
  kinds.check_keys(_CONFIG.value)
  resume = _RESUME.value
  if resume == launch.AUTO:
    resume = run_folder.holds_run(launch.workdir())
  reporter = console.reporter()
  result = kind.train(
    _CONFIG.value,
    launch.workdir(),
    resume=resume,
    reporter=reporter,
    started=_STARTED,
  )
  page = kind.write_report(launch.workdir())
  reporter.say(kind.headline(result))
  reporter.say(f"open {page}")


if __name__ == "__main__":
  launch.run(main)
