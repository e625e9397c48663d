"""The paper's algorithm, but every expert learns from every image.

  python -m experiments.sweep \
      --config=experiments/configs/no_competition.py:full --seeds=0-2 \
      --workdir=runs/no_competition

This is an ablation: winners count in the table of wins only.

Measured on all of MNIST, seeds 0 to 2, 600 steps: no mechanism has an expert of
its own, and fewer restored images are recognised than transformed ones, 34.4,
29.4 and 33.4 instead of 44.5, 42.5 and 44.2 % (docs/paper_study.md). Modes as
in mnist.py.
"""

import ml_collections

from experiments.configs.sections import paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """No competition; mode is embedded, full or smoke."""
  c = paper.experiment(mode)
  c.experts.losers_learn = True
  return c.lock()
