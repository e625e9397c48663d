"""Faces with a mask, or with one worn badly, cut out of pictures.

  python -m experiments.train --config=experiments/configs/face_masks.py \\
      --config.data.manual_dir=DIR --workdir=runs/face_masks

DIR holds `images` and `annotations` of Face Mask Detection, or a part of them.
Canonical are faces without a mask. Who is seen is not known.
"""

import ml_collections

from experiments.configs import celeba_attributes


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """Masks; mode is embedded, full or smoke."""
  c = celeba_attributes.get_config(mode)
  c.unlock()
  c.data.update(
    name="face_mask",
    groups="with_mask,mask_weared_incorrect",
    canonical="",
    crop=None,
  )
  c.experts.count = 2
  c.attributes.names = c.data.groups
  return c.lock()
