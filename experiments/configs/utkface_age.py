"""UTKFace: ages as mechanisms, where 20 to 39 years are canonical.

  python -m experiments.train --config=experiments/configs/utkface_age.py \\
      --config.data.manual_dir=DIR --workdir=runs/utkface

DIR holds the folder `UTKFace`, or a part of it. Who is seen is not known, so
that one person may be on both sides, and in the test part.
"""

import ml_collections

from experiments.configs import celeba_attributes


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """UTKFace's ages; mode is embedded, full or smoke."""
  c = celeba_attributes.get_config(mode)
  c.unlock()
  c.data.update(
    name="utkface",
    groups="child,middle_aged,old",
    canonical="age=20-39",
    crop=None,
  )
  c.experts.count = 3
  c.attributes.names = "gender=female"
  return c.lock()
