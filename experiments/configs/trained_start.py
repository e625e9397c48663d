"""The default experiment with a trained identity start.

  python -m experiments.sweep \
      --config=experiments/configs/trained_start.py:full --seeds=0-2 \
      --workdir=runs/trained_start

Every expert learns to copy its input before the competition, as in the paper,
which works with any network and normalisation. The config is to be compared
with mnist.py, whose kernels pass the image through by construction.

Measured: docs/paper_study.md. Modes as in mnist.py.
"""

import ml_collections

from experiments.configs import mnist


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """A trained identity start; mode is embedded, full or smoke."""
  c = mnist.get_config(mode)
  c.identity.update(
    by_construction=False, max_steps=2 if mode == "smoke" else 500
  )
  return c
