"""Six experts for ten mechanisms: some take several, some are left over.

  python -m experiments.sweep \
      --config=experiments/configs/too_few_experts.py:full --seeds=0-2 \
      --workdir=runs/too_few_experts

The paper's algorithm.

Measured: see experiments/README.md. Modes as in mnist.py.
"""

import ml_collections

from experiments.configs import mnist_paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """Fewer experts than mechanisms; mode is embedded, full or smoke."""
  c = mnist_paper.get_config(mode)
  c.experts.count = 2 if mode == "smoke" else 6
  return c
