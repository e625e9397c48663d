"""Faces in which somebody replaced the eyes, or nose and mouth, or all of them.

  python -m experiments.train \\
      --config=experiments/configs/real_and_fake_parts.py \\
      --config.data.manual_dir=DIR --workdir=runs/real_and_fake

DIR contains `training_real` and `training_fake` of Real and Fake Face
Detection, or a part of them. Real faces are canonical. Few fakes have a single
part of another person: editors took both eyes, or nose and mouth, or all. The
data set does not say who is seen.

Measured, seed 0, on 140 pictures: nothing was learned, because the
discriminator memorises 56 real faces. 168 s on a busy core.
docs/attributes_study.md has the numbers.

Modes as in mnist.py: no mode is 64x64 pixels, for a CPU; `full` is larger
networks and more updates, for an accelerator, and was not run; `smoke` is a few
steps of tiny networks, for tests.
"""

import ml_collections

from experiments.configs.sections import faces


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """Replaced parts; mode is embedded, full or smoke."""
  c = faces.few_people(mode)
  c.data.update(
    name="real_and_fake_faces",
    groups="eyes,nose_and_mouth,all_parts",
    image_size=64,
    crop=500,  # Most of the face, without hair and background.
  )
  c.experts.count = 3
  c.attributes.names = c.data.groups
  # An expert repairs a part, and not the face around it.
  c.experts.network = "masked_unet"
  c.discriminator.network = "patch_global"
  c.remedies.change.weight = 0.5
  c.remedies.identity.weight = 5.0
  # Scores of a replaced nose are close to those of a real one.
  c.remedies.places.weight = 2.0
  if mode == "smoke":
    return c.lock()
  c.remedies.signature.weight = 0.5  # More was not tried with so few images.
  # With less, the discriminator memorises the few faces.
  c.remedies.r1.weight = 1.0
  if mode == "embedded":
    c.train.steps = 400
    c.classifier.steps = 500
  return c.lock()
