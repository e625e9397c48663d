"""The default experiment from experts that copy by construction.

  python -m experiments.sweep \
      --config=experiments/configs/copying_start.py:full --seeds=0-2 \
      --workdir=runs/copying_start

Kernels that carry the image through, plus small random weights, in place of the
training of the identity start. To be compared with mnist.py.

Measured: see experiments/README.md. Modes as in mnist.py.
"""

import ml_collections

from experiments.configs import mnist


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """An identity start that costs nothing; mode is embedded, full or smoke."""
  c = mnist.get_config(mode)
  c.identity.update(max_steps=0, by_construction=True)
  return c
