"""Noise, light, colour, blocks and covers on CelebA's faces.

  python -m experiments.train \\
      --config=experiments/configs/celeba_image_mechanisms.py \\
      --config.data.manual_dir=DIR --workdir=runs/celeba

DIR contains CelebA's original files, or any part of them (docs/data.md).
People of the test part are never seen in training.

Measured on 17,200 images, seeds 0, 1 and 2: 98.1, 96.9 and 99.2 % of 1,200 test
images are matched, and 7, 7 and 8 of eight mechanisms have an expert of their
own, after 13 minutes of one core. docs/faces.md has the tables.

Modes as in mnist.py: no mode is 48x48 pixels, for a CPU; `full` is 64x64 pixels
and larger networks, for an accelerator, and was not run; `smoke` is a few steps
of tiny networks, for tests.
"""

import ml_collections

from experiments.configs.sections import faces
from icm_jax import mechanisms


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """CelebA's faces; mode is embedded, full or smoke."""
  c = faces.photographs(mode)
  c.data.update(name="celeb_a", image_size=64 if mode == "full" else 48)
  c.mechanisms = mechanisms.PRESETS["faces"]
  c.experts.count = len(c.mechanisms.names)
  if mode == "smoke":
    return c.lock()
  c.remedies.balance.weight = 2.0
  c.remedies.signature.update(weight=2.0, test_weight=0.5)
  c.remedies.r1.weight = 0.5
  # Hands and masks, which hide the same part of a face, separate at full rate.
  c.experts.update(learning_rate=1e-3, decay_begin=1_600, half_life=300)
  c.detection.examples = 200
  if mode == "embedded":
    c.train.steps = 2_000
  return c.lock()
