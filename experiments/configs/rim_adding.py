"""Adding two marked numbers: RIMs compared with three other models.

  python -m experiments.train --config=experiments/configs/rim_adding.py \
      --workdir=runs/rim_adding

Models are trained with 50 numbers and tested with 200 (Goyal et al., 2021, Sec.
4.1). The constant output 1 has a squared error of 0.167. The paper's other pair
of lengths is --config.task.lengths=500,1000.

Measured: squared errors on 1,000 sequences of 50 and of 200 numbers, seed 0,
with --config.models.names=rim,lstm, in 10 minutes on one CPU core that also did
other work:

  RIMs   0.00005 / 0.00004
  LSTM   0.00023 / 0.12410

Modes, after a colon: none, for two CPU cores; `full`, the paper's sizes, not
run; `smoke`, a few steps of tiny models, for tests.
"""

import ml_collections

from experiments.configs import rim_copying


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  """The adding experiment; mode is empty, full or smoke."""
  c = rim_copying.get_config(mode).unlock()
  # Numbers of a sequence: the first is used for training, the last is the
  # hardest test.
  c.task = dict(name="adding", lengths=(50, 200), measured="test")
  if mode == "full":
    c.train.updates = 20_000
  elif mode == "smoke":
    c.task.lengths = (4, 8)
  else:
    rim_copying.set_units(c, 24)
    c.models.rim.presence = 0.0
    c.models.transformer.width = 64
    rim_copying.set_rates(c, rim=2e-3, lstm=2e-3, gru=2e-3, transformer=2e-3)
    c.train.update(updates=1_500, batch_size=64)
  return c.lock()
