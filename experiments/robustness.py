"""Competing experts in front of a frozen classifier, on MNIST-C.

  python -m experiments.robustness --workdir=runs/robust
  python -m experiments.robustness --workdir=runs/robust \\
      --config=mnist_c:full --config.data.manual_dir=DIR --benchmark=DIR

For every seed, it trains classifiers of clean digits; experts that learn eight
of the benchmark's fifteen corruptions from unlabelled images; one network that
learns the same alone; and experts of the paper's ten mechanisms. Then it
measures the errors of classifiers behind them, and of classifiers that adapt to
the test images or were trained with distorted ones, on every corruption.

Without --benchmark, the corruptions act on the test digits of the config. The
results are robustness.json, robustness.md and robustness.png. The same command
resumes; what is finished is not repeated. docs/robustness.md has the measured
table.
"""

from __future__ import annotations

from absl import flags
from ml_collections import config_flags

from experiments import console, kinds, launch, robust_study, runs

launch.define_workdir()
_CONFIG = config_flags.DEFINE_config_file(
  "config", str(launch.CONFIGS / "mnist_c.py"), lock_config=True
)
_SEEDS = flags.DEFINE_string("seeds", "0-2", "Seeds, as 0-2 or 0,3,5.")
_BENCHMARK = flags.DEFINE_string(
  "benchmark",
  "",
  'Folder or zip of MNIST-C; "" distorts the test digits of the config.',
)
_EXAMPLES = flags.DEFINE_integer(
  "examples", 1_000, "Most test images of each corruption.", lower_bound=1
)


def main() -> None:
  kinds.check_keys(_CONFIG.value)
  robust_study.run(
    launch.workdir(),
    _CONFIG.value,
    runs.parse_seeds(_SEEDS.value),
    benchmark=_BENCHMARK.value,
    most=_EXAMPLES.value,
    reporter=console.reporter(),
  )


if __name__ == "__main__":
  launch.run(main)
