"""UTKFace: groups of age as mechanisms; 20 to 39 years are canonical.

  python -m experiments.train --config=experiments/configs/utkface_age.py \\
      --config.data.manual_dir=DIR --workdir=runs/utkface

DIR contains the folder `UTKFace`, or a part of it. The data set does not say
who is seen, so one person may be on both sides and in the test part.

Measured, seed 0, on 3,000 pictures: one expert specialises in children, whom a
probe no longer sees in 52 % of the pictures after the winner; middle and old
age share an expert, and are not removed (10 and 24 %). 748 s on a busy core.
docs/attributes_study.md has the table.

Modes as in mnist.py: no mode is 40x40 pixels, for a CPU; `full` is 64x64 pixels
and larger networks, for an accelerator, and was not run; `smoke` is a few steps
of tiny networks, for tests.
"""

import ml_collections

from experiments.configs.sections import faces


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """UTKFace's ages; mode is embedded, full or smoke."""
  c = faces.attributes(mode, ("child", "middle_aged", "old"))
  c.data.update(name="utkface", canonical="age=20-39")
  c.attributes.names = "gender=female"
  return c.lock()
