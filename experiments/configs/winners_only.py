"""The paper's algorithm, but the discriminator sees winners' outputs only.

  python -m experiments.sweep \
      --config=experiments/configs/winners_only.py:full --seeds=0-2 \
      --workdir=runs/winners_only

This is an ablation: losers' outputs are not in the discriminator's loss.

Measured on all of MNIST, seeds 0 to 2, 600 steps: six, eight and eight of ten
mechanisms have an expert of their own, and 86.8, 84.1 and 93.6 % of restored
images are recognised, clean 99.1 %; the first two are similar to mnist_paper.py
after as many steps (docs/paper_study.md). Modes as in mnist.py.
"""

import ml_collections

from experiments.configs.sections import paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """No losers in D's loss; mode is embedded, full or smoke."""
  c = paper.experiment(mode)
  c.remedies.winner_weight.weight = 1.0
  return c.lock()
