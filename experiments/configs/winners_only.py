"""The paper's algorithm, but the discriminator sees winners' outputs only.

  python -m experiments.sweep \
      --config=experiments/configs/winners_only.py:full --seeds=0-2 \
      --workdir=runs/winners_only

This is an ablation: losers' outputs are not in the discriminator's loss.

Measured on all of MNIST, seeds 0 and 1, 600 steps: six and eight of ten
mechanisms have an expert of their own, and 86.8 and 84.1 % of restored images
are recognised, clean 99.1 %, similar to mnist_paper.py after as many steps
(docs/paper_study.md). Modes as in mnist.py.
"""

import ml_collections

from experiments.configs.sections import paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """No losers in D's loss; mode is embedded, full or smoke."""
  c = paper.experiment(mode)
  c.remedies.winner_weight.weight = 1.0
  return c.lock()
