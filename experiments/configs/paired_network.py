"""One network for all ten mechanisms, trained on pairs.

  python -m experiments.sweep \
      --config=experiments/configs/paired_network.py:full --seeds=0-2 \
      --override="" --override="experts.features=64" \
      --override="experts.network=unet" \
      --workdir=runs/paired_network

There is no competition, and the loss is the mean squared error against the
originals, which the method itself never sees. The config checks the capacity of
the networks of one_network.py. With 64 features the network has four times the
parameters; a U-Net sees all pixels.

Measured on all of MNIST, seeds 0 to 2: the paper's expert fails in both sizes:
31.5 to 35.4 % of restored images are recognised, because the 11x11 pixels that
it sees do not tell in which direction a digit was moved. The U-Net works: 98.2
to 98.6 %, clean 99.1 % (docs/paper_study.md). Modes as in mnist.py.
"""

import ml_collections

from experiments.configs.sections import paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """One network and paired L2; mode is embedded, full or smoke."""
  c = paper.experiment(mode)
  c.experts.count = 1
  c.identity.max_steps = 0
  c.pairs.steps = c.train.steps
  c.train.steps = 0
  return c.lock()
