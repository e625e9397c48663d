"""Evaluates the newest checkpoint of a run again, and writes result.json.

python -m experiments.evaluate --workdir=runs/mnist
"""

from experiments import console, launch
from icm_jax.training import experiment
from icm_jax.viz import report

launch.define_workdir()


def main() -> None:
  result = experiment.evaluate_checkpoint(launch.workdir())
  console.reporter().say(report.headline(result))


if __name__ == "__main__":
  launch.run(main)
