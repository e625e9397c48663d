"""Draws report.html and grid.png of a run again, from its files.

python -m experiments.report --workdir=runs/mnist
"""

from experiments import console, launch
from icm_jax.viz import report

launch.define_workdir()


def main() -> None:
  console.reporter().say(f"open {report.write(launch.workdir())}")


if __name__ == "__main__":
  launch.run(main)
