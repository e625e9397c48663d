"""The paper's experiment: ten mechanisms on MNIST, without remedies.

  python -m experiments.train \
      --config=experiments/configs/mnist_paper.py:full --workdir=runs/paper

Experts have batch normalisation, Adam has its default parameters, and there are
2,000 steps (Sec. 4).

Measured on all of MNIST, seeds 0 to 7: nine, eight, eight, nine, eight, four,
seven and eight of ten mechanisms have an expert of their own, and 96.2, 95.9,
96.2, 96.2, 94.9, 88.8, 95.4 and 97.0 % of restored images are recognised, clean
99.0 % (docs/paper_study.md). Modes as in mnist.py.
"""

import ml_collections

from experiments.configs.sections import paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """The paper's experiment; mode is embedded, full or smoke."""
  return paper.experiment(mode).lock()
