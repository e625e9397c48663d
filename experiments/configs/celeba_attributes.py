"""Attributes of CelebA's faces: glasses, hats and beards come off.

  python -m experiments.train \\
      --config=experiments/configs/celeba_attributes.py \\
      --config.data.manual_dir=DIR --workdir=runs/celeba_attributes

DIR contains CelebA's original files, or any part of them (docs/data.md).
Nothing is drawn onto images: a mechanism is an attribute that a group of images
carries, by CelebA's labels; canonical images carry none. A probe measures which
attributes disappear after the experts, and what else changes. A person's race
is never a mechanism.

docs/faces.md has the measured tables.

Modes as in mnist.py: no mode is 64x64 pixels, for a CPU; `full` is 128x128
pixels, four more groups and larger networks, for an accelerator, and was not
run; `smoke` is a few steps of tiny networks, for tests.
"""

import ml_collections

from experiments.configs.sections import faces

GROUPS = ("Eyeglasses", "Wearing_Hat", "Beard")
MORE_GROUPS = ("Smiling", "Heavy_Makeup", "Bangs", "Blond_Hair")

# Attributes that are plainly visible in the part of a face that no group
# covers: a hat hides hair, so that nobody can label the hair below it.
JUDGED = (
  "Smiling,High_Cheekbones,Mouth_Slightly_Open,Male,Young,Heavy_Makeup,"
  "Wearing_Lipstick"
)


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """CelebA's attributes; mode is embedded, full or smoke."""
  groups = GROUPS + MORE_GROUPS if mode == "full" else GROUPS
  c = faces.attributes(mode, groups)
  # Most people with glasses, hats or beards are men, and few are young.
  c.data.update(name="celeb_a", crop=128, matched="Male,Young")
  c.data.image_size = 128 if mode == "full" else 64
  # An expert changes the glasses, and not the face around them.
  c.experts.network = "masked_unet"
  c.discriminator.network = "patch_global"
  c.remedies.change.weight = 0.5
  c.remedies.identity.weight = 5.0
  # Scores alone do not tell which attribute a photograph carries.
  c.remedies.places.weight = 2.0
  c.remedies.balance.weight = 2.0
  # Thin rims are won by the expert that changes least, which leaves them.
  c.remedies.referee.weight = 1.0
  # Traces of experts are easier to see than attributes.
  c.remedies.contrast.weight = 1.0
  c.attributes.names = JUDGED
  if mode == "smoke":
    c.experts.masked_unet.levels = 1
    return c.lock()
  # Detectors miss few faces with glasses or hats, unless they are small.
  c.detection.update(sizes="64,32,16,12", detectors="centerface,mtcnn")
  c.remedies.averages.steps = 200.0
  c.remedies.relocation.update(every=50, min_share=0.3, max_share=1.5)
  c.discriminator.learning_rate = 1e-3
  c.experts.update(learning_rate=3e-4, decay_begin=3_000, half_life=1_000)
  c.experts.b1 = c.discriminator.b1 = 0.5
  c.every.update(evaluate=500, checkpoint=500)
  c.train.steps = 30_000 if mode == "full" else 5_000
  return c.lock()
