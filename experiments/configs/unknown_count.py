"""Sixteen experts for an unknown number of mechanisms; surplus experts retire.

  python -m experiments.sweep \
      --config=experiments/configs/unknown_count.py --seeds=0-2 \
      --override="" \
      --override="mechanisms.names=up,right,down,left,noise,invert" \
      --override="mechanisms.names=right,down,invert" \
      --workdir=runs/unknown_count

`active_experts` in result.json is the number of experts that stay. Any config
can do the same with --config.experts.count=auto.

Measured on all of MNIST: for ten mechanisms, ten of sixteen experts stay, each
mechanism with an expert of its own, by step 400; for six, six, by step 300, and
for three, three, by step 300 (seeds 0 to 2 each). See docs/paper_study.md.
Modes as in mnist.py.
"""

import ml_collections

from experiments.configs import mnist


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """Experts that retire; mode is embedded, full or smoke."""
  c = mnist.get_config(mode)
  c.experts.count = "auto"
  if mode == "smoke":
    c.experts.auto.most = 4
  return c
