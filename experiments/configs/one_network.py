"""One network for all ten mechanisms, trained adversarially.

  python -m experiments.sweep \
      --config=experiments/configs/one_network.py:full --seeds=0-2 \
      --override="" --override="experts.features=64" \
      --override="experts.network=unet" \
      --workdir=runs/one_network

With one expert, the paper's algorithm is a plain GAN. With 64 features the
network has four times the parameters; a U-Net sees all pixels.

Measured on all of MNIST, seeds 0 to 2, 600 steps: all three fail, at most 31.6,
31.8 and 35.2 % of restored images are recognised, and at least 42.5 % of
transformed ones (docs/paper_study.md). Modes as in mnist.py.
"""

import ml_collections

from experiments.configs.sections import paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """One network; mode is embedded, full or smoke."""
  c = paper.experiment(mode)
  c.experts.count = 1
  return c.lock()
