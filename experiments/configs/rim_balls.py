"""Predicting bouncing balls: RIMs compared with three other models.

  python -m experiments.train --config=experiments/configs/rim_balls.py \
      --workdir=runs/rim_balls

Models are trained to predict the next frame of 4 balls. In tests they see 15
frames and then predict 35, each from their own previous predictions, of 4
balls, of 6 to 8 balls, and of 4 balls behind a curtain (Goyal et al., 2021,
Sec. 4.3; frames here are smaller, and the simulation is this project's).

Measured: cross entropies of a predicted frame's pixels in nats, on 200
sequences of 4 balls / of 6 to 8 balls / behind a curtain, seed 0, in 18 minutes
on one CPU core that also did other work, interruptions included:

  RIMs         0.668 / 1.016 / 0.587
  LSTM         0.694 / 0.983 / 0.580
  GRU          0.705 / 1.014 / 0.577
  Transformer  0.847 / 1.431 / 0.704

RIMs are no better than an LSTM here: after 1,500 updates no model predicts 35
frames in a row.

Modes, after a colon: none, for two CPU cores; `full`, the paper's sizes, not
run; `smoke`, a few steps of tiny models, for tests.
"""

import ml_collections

from experiments.configs import rim_copying


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  """The experiment on balls; mode is empty, full or smoke."""
  c = rim_copying.get_config(mode).unlock()
  c.task = dict(
    name="balls",
    pixels=16,  # Pixels per side of a frame.
    radius=0.1,  # Radius of a ball, as a share of a frame's side.
    seen=15,  # Frames that a test shows.
    unseen=35,  # Frames that are then predicted.
    measured="test",
  )
  if mode == "full":
    c.task.pixels = 64
    c.train.updates = 50_000
    c.evaluation.examples = 1_000
  elif mode == "smoke":
    c.task.update(pixels=4, seen=2, unseen=2)
  else:
    rim_copying.set_units(c, 24)
    c.models.rim.update(embed=64, input_values=64, presence=0.0)
    c.models.transformer.width = 64
    rim_copying.set_rates(c, rim=2e-3, lstm=2e-3, gru=2e-3, transformer=2e-3)
    c.train.update(updates=1_500, batch_size=32)
    c.evaluation.update(examples=200, curve_examples=50, batch_size=50)
  return c.lock()
