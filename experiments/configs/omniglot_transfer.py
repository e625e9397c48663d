"""Experts that were trained on digits, tested on letters of Omniglot.

  python -m experiments.sweep \\
      --config=experiments/configs/omniglot_transfer.py:full --seeds=0-2 \\
      --config.transfer.manual_dir=DIR --workdir=runs/omniglot_transfer

DIR contains any of Omniglot's zips (docs/data.md). `transfer` in result.json
and a table on the page have the share of letters that a mechanism's expert
wins, and the PSNR of its outputs and of the best other expert's.

Measured, seeds 0 to 2, 800 steps: of 2,000 transformed letters the mechanism's
expert wins 62 %, and restores them to 19.0 dB, the best other to 11.2 dB
(docs/paper_study.md). All losers taught the discriminator then, and the start
was trained. Modes as in mnist.py; `smoke` tests on digits.
"""

import ml_collections

from experiments.configs import mnist


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """Transfer to Omniglot; mode is embedded, full or smoke."""
  c = mnist.get_config(mode)
  c.transfer.name = c.data.name if mode == "smoke" else "omniglot"
  if mode == "smoke":
    c.transfer.examples = 20
  return c
