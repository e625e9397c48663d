"""Your own pictures: clean ones in one folder, distorted ones in another.

  python -m experiments.train --config=experiments/configs/own_pictures.py \\
      --config.data.name=folders:CLEAN,DISTORTED --workdir=runs/own

The folders need not show the same things: no picture comes with its original.
If DISTORTED has sub-folders, these are the mechanisms by which the result is
measured; training does not look at them. docs/own_pictures.md says how many
pictures and updates it takes, and what to change if no expert specialises.

Modes as in mnist.py: no mode takes minutes on a CPU; `full` has larger networks
and more updates; `smoke` is a few steps of tiny networks, for tests.
"""

import ml_collections

from experiments.configs.sections import faces


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """Two folders; mode is embedded, full or smoke."""
  c = faces.few_people(mode)
  c.data.name = "folders:pictures/clean,pictures/distorted"
  c.data.image_size = 64 if mode == "full" else 32
  c.experts.count = 3
  if mode == "embedded":
    c.train.steps = 900
  return c.lock()
