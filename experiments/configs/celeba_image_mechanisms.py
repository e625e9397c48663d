"""Noise, light, colour, blocks and covers on CelebA's faces.

  python -m experiments.train \\
      --config=experiments/configs/celeba_image_mechanisms.py \\
      --config.data.manual_dir=DIR --workdir=runs/celeba

DIR contains CelebA's original files, or any part of them (docs/data.md).
People of the test part are never seen in training.

Measured, seed 0, on 3,200 images: all eight mechanisms have an expert of their
own, and 98.4 % of images are matched; on 17,200, 94.3 %, because the expert of
hands wins 29 % of masks too. docs/faces.md has the tables.

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
  c.experts.update(learning_rate=1e-3, decay_begin=800, half_life=300)
  c.detection.examples = 200
  if mode == "embedded":
    c.train.steps = 1_500
  return c.lock()
