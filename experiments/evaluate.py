"""Evaluates the newest checkpoint of a run again, and writes result.json.

python -m experiments.evaluate --workdir=runs/mnist
"""

from experiments import console, kinds, launch

launch.define_workdir()


def main() -> None:
  kind = kinds.from_workdir(launch.workdir())
  result = kind.evaluate_checkpoint(launch.workdir())
  console.reporter().say(kind.headline(result))


if __name__ == "__main__":
  launch.run(main)
