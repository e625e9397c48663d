"""The digit six only, shifted by 5 pixels or inverted; three experts.

  python -m experiments.sweep \
      --config=experiments/configs/digit_six.py:full --seeds=0-2 \
      --workdir=runs/digit_six

The mechanisms are right, down and inversion. With one digit the classifier has
one class, so its accuracy is meaningless; see the wins and the PSNR.

Measured on all of MNIST, seeds 0, 1, 2: one to one, all found by step 200, 100
and 300, PSNR 20.1, 19.3 and 19.4 dB (docs/paper_study.md). Modes as in
mnist.py.
"""

import ml_collections

from experiments.configs import mnist
from icm_jax import mechanisms


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """The digit six; mode is embedded, full or smoke."""
  c = mnist.get_config(mode)
  c.mechanisms = mechanisms.PRESETS["three"]
  c.experts.count = 3
  # The data of tests have few digits.
  c.data.canonical = "label=1" if mode == "smoke" else "label=6"
  return c
