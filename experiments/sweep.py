"""Runs a config over seeds and overrides, and gathers the results.

  python -m experiments.sweep --config=experiments/configs/mnist.py \
      --seeds=0-9 --override="" --override="remedies.relocation.every=0" \
      --workdir=runs/relocation

Every `--override` is a variant of the config: `name=value` pairs without
`--config.`, separated by spaces. The empty override is the unchanged config.
Flags such as --config.train.steps=500 set values of all variants.

A run is a process of `experiments.train` with a folder of its own,
WORKDIR/VARIANT/seed_N, and its log beside it. The same command again skips
finished runs and resumes interrupted ones. A failure is reported, and does not
stop other runs. At the end, or with --gather alone, the program writes
results.csv, one line per run, and sweep.html to WORKDIR.

--cluster=slurm submits every run as a job of a SLURM cluster, and ends:

  python -m experiments.sweep --config=... --seeds=0-9 --workdir=... \
      --cluster=slurm --slurm=partition=gpu --slurm=gpus_per_node=1 \
      --slurm=cpus_per_task=8 --slurm=time=4:00:00

--slurm=NAME=VALUE is an option of sbatch. The time limit is needed; a run that
takes longer is queued again, and resumed. WORKDIR must be a folder that all
machines share. The same command again submits what is neither finished nor
queued; with --gather it gathers what is finished.
"""

from __future__ import annotations

from absl import flags
from ml_collections import config_flags

from experiments import cluster, console, kinds, launch, runs
from icm_jax import types
from icm_jax.viz import sweep

launch.define_workdir()
_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_SEEDS = flags.DEFINE_string("seeds", "0", "Seeds, such as 0-9 or 0,3,5.")
_OVERRIDES = flags.DEFINE_multi_string(
  "override", [""], "A variant: name=value, separated by spaces; repeatable."
)
_JOBS = flags.DEFINE_integer(
  "jobs",
  runs.DEFAULT_JOBS,
  "Parallel runs; by default, half the number of cores.",
  lower_bound=1,
)
_GATHER = flags.DEFINE_bool("gather", False, "Gather results; run nothing.")
cluster.define_flags()
flags.mark_flag_as_required("config")


def main() -> None:
  root = launch.workdir()
  kinds.check_keys(_CONFIG.value)
  layout = kinds.from_config(_CONFIG.value).sweep_layout
  holder = flags.FLAGS["config"]
  shared = config_flags.get_override_values(holder)
  plans = runs.plan(
    root,
    config_flags.get_config_filename(holder),
    [f"{name}={value}" for name, value in shared.items()],
    _OVERRIDES.value,
    runs.parse_seeds(_SEEDS.value),
  )
  say = console.reporter().say
  options = flags.FLAGS.slurm
  if options and not flags.FLAGS.cluster:
    raise types.InputError("--slurm needs --cluster=slurm.")
  failed = 0
  if flags.FLAGS.cluster and not _GATHER.value:
    cluster.submit(root, plans, options, say)
    return
  if not _GATHER.value:
    failed = runs.run_all(plans, _JOBS.value, say)
  page = sweep.write(root, [planned.run for planned in plans], layout)
  say(f"open {page}")
  if failed:
    raise launch.Failed(f"{failed} of {len(plans)} runs failed; see above.")


if __name__ == "__main__":
  launch.run(main)
