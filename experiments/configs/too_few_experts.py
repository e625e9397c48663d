"""Six experts for ten mechanisms.

  python -m experiments.sweep \
      --config=experiments/configs/too_few_experts.py:full --seeds=0-2 \
      --workdir=runs/too_few_experts

The config is the paper's algorithm, without remedies.

Measured on all of MNIST, seeds 0 to 2, 600 steps: all six experts are active,
three, five and three mechanisms have an expert of their own, and 72.4, 55.6 and
81.3 % of restored images are recognised, clean 99.1 % (docs/paper_study.md).
Modes as in mnist.py.
"""

import ml_collections

from experiments.configs.sections import paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """Fewer experts than mechanisms; mode is embedded, full or smoke."""
  c = paper.experiment(mode)
  c.experts.count = 2 if mode == "smoke" else 6
  return c.lock()
