"""Draws the report of a run again, from the files in its folder.

python -m experiments.report --workdir=runs/mnist
"""

from experiments import console, kinds, launch

launch.define_workdir()


def main() -> None:
  kind = kinds.from_workdir(launch.workdir())
  console.reporter().say(f"open {kind.write_report(launch.workdir())}")


if __name__ == "__main__":
  launch.run(main)
