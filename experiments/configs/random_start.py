"""The default experiment with random experts, without the identity start.

  python -m experiments.sweep \
      --config=experiments/configs/random_start.py:full --seeds=0-2 \
      --workdir=runs/random_start

The config is to be compared with mnist.py and trained_start.py.

Measured on all of MNIST, 800 steps, seeds 0, 1, 2: one to one, all found by
step 300, 700 and 300; 98.6, 97.4 and 98.2 % of restored images are recognised,
clean 99.1 %: no worse than mnist.py (docs/paper_study.md). Modes as in
mnist.py.
"""

import ml_collections

from experiments.configs import mnist


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """A random start; mode is embedded, full or smoke."""
  c = mnist.get_config(mode)
  c.identity.update(by_construction=False, max_steps=0)
  return c
