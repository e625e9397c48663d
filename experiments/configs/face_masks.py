"""Faces with masks, worn correctly and incorrectly, cut out of pictures.

  python -m experiments.train --config=experiments/configs/face_masks.py \\
      --config.data.manual_dir=DIR --workdir=runs/face_masks

DIR contains `images` and `annotations` of Face Mask Detection, or a part of
them. Faces without a mask are canonical. The data set does not say who is seen.

Measured, seed 0, on 149 faces: masks are painted over in red, not removed, and
the two groups share an expert. 229 s on a busy core.
docs/attributes_study.md has the table.

Modes as in mnist.py: no mode is for a CPU; `full` is larger networks and more
updates, for an accelerator, and was not run; `smoke` is a few steps of tiny
networks, for tests.
"""

import ml_collections

from experiments.configs.sections import faces


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """Masks; mode is embedded, full or smoke."""
  c = faces.few_people(mode)
  c.data.update(
    name="face_mask",
    groups="with_mask,mask_weared_incorrect",
    image_size=32,  # Half of the faces have fewer pixels.
  )
  c.experts.count = 2
  c.attributes.names = c.data.groups
  if mode == "smoke":
    return c.lock()
  c.remedies.signature.weight = 0.5  # More was not tried with so few images.
  # With less, the discriminator memorises the few faces.
  c.remedies.r1.weight = 1.0
  if mode == "embedded":
    c.train.steps = 600
    c.classifier.steps = 500
  return c.lock()
