"""Sixteen experts for ten mechanisms: are the surplus ones idle?

  python -m experiments.sweep \
      --config=experiments/configs/too_many_experts.py:full --seeds=0-2 \
      --workdir=runs/too_many_experts

The paper's algorithm. `active_experts` in result.json says how many are at
work. With --override="relocation.every=25" idle experts are moved as well.

Measured at the small scale of `make paper`, five experts for three mechanisms,
seed 0: three experts are active, and each mechanism has its own. With idle ones
moved, four are active and a mechanism is divided (experiments/README.md). Modes
as in mnist.py.
"""

import ml_collections

from experiments.configs import mnist_paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """More experts than mechanisms; mode is embedded, full or smoke."""
  c = mnist_paper.get_config(mode)
  c.experts.count = 4 if mode == "smoke" else 16
  return c
