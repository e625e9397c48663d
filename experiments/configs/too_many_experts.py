"""Sixteen experts for ten mechanisms: do surplus experts stay idle?

  python -m experiments.sweep \
      --config=experiments/configs/too_many_experts.py:full --seeds=0-2 \
      --workdir=runs/too_many_experts

The config is the paper's algorithm, without remedies. `active_experts` in
result.json is the number of active experts.
--override="remedies.relocation.every=25" relocates idle experts.

Measured on all of MNIST, seeds 0 to 2, 600 steps: 7, 6 and 6 of the 16 experts
are idle, and 8, 10 and 10 of ten mechanisms have an expert of their own; with
relocation, 15 or 16 experts are active and divide mechanisms, and 5, 4 and 5
have one expert each (docs/paper_study.md). At the
small scale of `make paper`, with five experts for three mechanisms, two experts
are idle and each mechanism has an expert of its own; with relocation, one is
idle and a mechanism is divided (experiments/README.md). Modes as in mnist.py.
"""

import ml_collections

from experiments.configs.sections import paper


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """More experts than mechanisms; mode is embedded, full or smoke."""
  c = paper.experiment(mode)
  c.experts.count = 4 if mode == "smoke" else 16
  return c.lock()
