"""Runs every experiment of the paper, one after another.

  make paper
  make paper SCALE=small

`full` uses all of MNIST and the seeds below, and takes many hours. `small` uses
the 5,000 digits that come with a package, is scaled down by `SMALL`, and takes
27 minutes on 2 cores. Both resume where they were interrupted, and write
results.csv and sweep.html of all runs to WORKDIR. experiments/README.md has the
measured results.
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from absl import flags

from experiments import console, launch, runs
from icm_jax.viz import sweep

SCALES = ("full", "small")
# Overrides of every experiment of the small scale.
SMALL = (
  "mechanisms.names=right,down,invert",
  "train.steps=300",
  "classifier.steps=500",
  "evaluation.examples=900",
  "evaluation.curve_examples=150",
)
# Override of the small scale, unless an experiment has its own number of
# experts.
_SMALL_COUNT = "experts.count=3"

launch.define_workdir()
_SCALE = flags.DEFINE_enum("scale", "full", SCALES, "Scale of the experiments.")
_JOBS = flags.DEFINE_integer(
  "jobs", runs.DEFAULT_JOBS, "Parallel runs.", lower_bound=1
)


class Experiment(NamedTuple):
  """An experiment of the paper.

  Attributes:
    config: name of the config's file.
    seeds: number of seeds, which start at 0.
    override: override of the config, as for a sweep.
    small: further override at the small scale.
  """

  config: str
  seeds: int = 3
  override: str = ""
  small: str = _SMALL_COUNT


EXPERIMENTS = (
  Experiment("mnist_paper", seeds=10),
  Experiment("mnist", seeds=10),
  Experiment("mnist", override="competition.losers=all"),
  Experiment("too_many_experts", small="experts.count=5"),
  Experiment(
    "too_many_experts",
    override="remedies.relocation.every=25",
    small="experts.count=5",
  ),
  Experiment("too_few_experts", small="experts.count=2"),
  Experiment(
    "unknown_count",
    small="mechanisms.names=right,down,noise,invert experts.auto.most=6",
  ),
  Experiment(
    "unknown_count",
    override="mechanisms.names=up,right,down,left,noise,invert",
    small="experts.auto.most=9",
  ),
  Experiment(
    "unknown_count",
    override="mechanisms.names=right,down,invert",
    small="experts.auto.most=5",
  ),
  Experiment("random_start"),
  Experiment("trained_start"),
  Experiment("one_network", small=""),
  Experiment("one_network", override="experts.features=64", small=""),
  Experiment("one_network", override="experts.network=unet", small=""),
  Experiment("paired_network", small="pairs.steps=500"),
  Experiment(
    "paired_network",
    override="experts.features=64",
    small="pairs.steps=500",
  ),
  Experiment(
    "paired_network",
    override="experts.network=unet",
    small="pairs.steps=500",
  ),
  Experiment("composed", small=f"{_SMALL_COUNT} chains.examples=600"),
  Experiment("no_competition"),
  Experiment("winners_only"),
  Experiment("digit_six", small=""),
)


def plan(root: pathlib.Path, scale: str) -> list[runs.Planned]:
  """All runs of a scale, each named after its experiment.

  Args:
    root: folder of all runs.
    scale: one of `SCALES`.

  Raises:
    InputError: an override is not valid.
  """
  is_small = scale == "small"
  plans = []
  for one in EXPERIMENTS:
    shared = (*SMALL, *one.small.split()) if is_small else ()
    planned = runs.plan(
      root / one.config,
      f"experiments/configs/{one.config}.py" + ("" if is_small else ":full"),
      shared,
      [one.override],
      range(1 if is_small else one.seeds),
    )
    name = f"{one.config} {one.override}".strip()
    plans += [p._replace(run=p.run._replace(variant=name)) for p in planned]
  return plans


def main() -> None:
  root, say = launch.workdir(), console.reporter().say
  plans = plan(root, _SCALE.value)
  if _SCALE.value == "small":
    say(f"scaled: 5,000 digits, one seed, {', '.join(SMALL)}")
  failed = runs.run_all(plans, _JOBS.value, say)
  page = sweep.write(root, [planned.run for planned in plans], sweep.IMAGES)
  say((root / sweep.RESULTS).read_text())
  say(f"open {page}")
  if failed:
    raise launch.Failed(f"{failed} of {len(plans)} runs failed; see above.")


if __name__ == "__main__":
  launch.run(main)
