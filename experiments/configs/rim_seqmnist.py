"""Digits, pixel by pixel, in more pixels than in training: RIMs and others.

  python -m experiments.train --config=experiments/configs/rim_seqmnist.py \
      --workdir=runs/rim_seqmnist

Trained with 14x14 pixels, tested with 16x16, 19x19 and 24x24 (Goyal et al.,
2021, Sec. 4.2). Accuracies of others there, in percent:

  the paper, RIMs(6, 4)                           90.0 / 73.4 / 38.1
  the paper, LSTM of 600 units                    84.5 / 52.2 / 21.9
  the authors' program, as users report           78 / 55 / 33
  after users embedded the input, lr 1e-4         88 / 70 / 44
  and with 510 units, RIMs(5, 3), lr 1e-3         88 / 72 / 39

Not measured yet at any size but `smoke`, nor how long it takes.

Modes, after a colon: none, 5,000 embedded digits, for two CPU cores; `full`,
the paper's sizes on all of MNIST, which were not run; `smoke`, a few steps of
tiny models, for tests.
"""

import ml_collections

from experiments.configs import rim_copying


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  """The experiment on digits; mode is empty, full or smoke."""
  c = rim_copying.get_config(mode).unlock()
  c.data = dict(
    name="mnist_5k",  # icm_jax.data.sources.SOURCES
    dir="",  # Prepared data; "" is the folder of tensorflow-datasets.
    manual_dir="",  # Original files; "" is downloads/manual below dir.
    download=False,  # Whether missing files may come from the network.
  )
  # Pixels a side: trained on first, then tested on, the hardest last.
  c.task = dict(name="seqmnist", sizes=(14, 16, 19, 24))
  c.models.rim.active = 2 if mode == "smoke" else 4
  if mode == "full":
    c.data.name = "mnist"
    c.models.rim.input_heads = 1
    c.train.update(updates=93_750, learning_rate=1e-4)  # 100 epochs.
  elif mode == "smoke":
    c.task.sizes = (2, 3)
  else:
    rim_copying.set_units(c, 24)
    c.models.rim.presence = 0.0
    c.models.transformer.width = 32
    c.train.update(updates=1_500, batch_size=32, learning_rate=2e-3)
    c.every.evaluate = 250
  return c.lock()
