"""Evaluates the newest checkpoint of a run again, and writes result.json.

python -m experiments.evaluate --workdir=runs/mnist
"""

from experiments import console, kinds, launch

launch.define_workdir()


def main() -> None:
  kind = kinds.from_workdir(launch.workdir())
  result = kind.evaluate_checkpoint(launch.workdir())
  # Not the newest step if the newest checkpoint is damaged.
  console.reporter().say(f"evaluated the checkpoint of step {result['steps']}")
  console.reporter().say(kind.headline(result))


if __name__ == "__main__":
  launch.run(main)
