"""Sixteen experts for ten mechanisms: are the surplus ones idle?

  python -m experiments.sweep \
      --config=experiments/configs/too_many_experts.py:full --seeds=0-2 \
      --workdir=runs/too_many_experts

The paper's algorithm. `active_experts` in result.json says how many are at
work. With --override="remedies.relocation.every=25" idle experts move too.

Measured on all of MNIST, seed 0, 600 steps: 7 of the sixteen are idle, 8 of ten
mechanisms have an expert of their own. At the small scale of `make paper`, five
for three, two are idle and each mechanism has its own; with idle ones moved,
one is, and a mechanism is divided (experiments/README.md). Modes as in
mnist.py.
"""

import ml_collections

from experiments.configs import mnist_paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """More experts than mechanisms; mode is embedded, full or smoke."""
  c = mnist_paper.get_config(mode)
  c.experts.count = 4 if mode == "smoke" else 16
  return c
