"""Copying ten digits after a pause: RIMs, and three models to compare with.

  python -m experiments.train --config=experiments/configs/rim_copying.py \
      --workdir=runs/rim_copying

Trained with 50 blanks, tested with 200 (Goyal et al., 2021, Sec. 4.1, where
cross entropies are 0.00 for RIMs and 3.56 to 4.32 for LSTMs). A blank shows
nothing: zeros.

Measured, cross entropies with 50 and with 200 blanks, of which chance is 2.08;
1,000 sequences, one CPU core, beside other work: 11 minutes for all four
models, 3 of them the RIMs'.

  seed  RIMs             LSTM             GRU              Transformer
  0     0.016 / 0.012    1.905 / 2.902    0.003 / 0.003    0.000 / 8.616
  1     0.025 / 0.026    1.865 / 2.874
  2     0.013 / 0.013    1.606 / 2.912

(seeds 1 and 2 with --config.models.names=rim,lstm). So RIMs learn it, and keep
what they have read four times as long as in training; an LSTM of as many units
does not learn it with this optimizer, and a GRU does. The learning rate was
chosen for the RIMs.

Three things here are not the paper's. `presence`: half of the RIMs prefer
inputs, half none, from the start. Where states alone choose (6 RIMs of 24
units, batches of 64, a constant rate, seed 0) they were at 1.09 after 2,500
updates: the set of active RIMs changes with every digit, so that none of them
reads the whole of what is to be copied. With presence, it is the same three for
all digits and questions, and the other three for all blanks. Communication is
gated, as in the authors' programs; what the paper's residual adds to states
that are not active is heard again, and may grow without bound. And sizes are
smaller.

The paper's sizes: rim_copying.py:full, which was not run to any end. An update
takes about 1.3 s of RIMs, 0.65 of the LSTM, 0.3 of the GRU and 0.75 of the
Transformer on one core (2 or 3 updates each, with RIMs slower than they are by
now): 100,000 of each would take some 80 hours.

Modes, after a colon: none, for two CPU cores; `full`, the paper's sizes, which
were not run; `smoke`, a few steps of tiny models, for tests.
"""

import ml_collections

_MODES = "none, full or smoke"


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  """The copying experiment; mode is empty, full or smoke."""
  c = ml_collections.ConfigDict()
  c.seed = 0  # Of everything: parameters, batches, dropout, tests.
  # Blanks: trained on first, then tested on, the hardest last.
  c.task = dict(name="copying", digits=10, blanks=(50, 200))
  c.models = dict(
    names="rim,lstm,gru,transformer",  # Trained one after another.
    rim=dict(
      rims=6,
      active=3,
      size=48,  # Units of one RIM.
      kind="lstm",  # Or gru.
      embed=16,  # Features of the input beside the null row; 0 is none.
      presence=10.0,  # Half of the RIMs prefer inputs, half none; paper: 0.
      input_keys=16,
      input_values=32,
      input_heads=1,
      input_dropout=0.0,
      communication_keys=16,
      communication_values=16,
      communication_heads=2,
      communication_dropout=0.0,
      communication="gated",  # As in the authors' programs; paper: residual.
      communication_gradient="all",  # Or active, likewise.
      computation="masked",  # Gathered pays with large RIMs.
    ),
    lstm=dict(size=288),  # As many units as all RIMs together.
    gru=dict(size=288),
    transformer=dict(width=64, layers=2, heads=4, dropout=0.0),
  )
  c.train = dict(
    updates=5_000,  # Of each model.
    batch_size=16,
    learning_rate=4e-3,
    decay_from=0.4,  # Share of the updates after which it falls to 0.
    clip=1.0,  # Of a gradient's norm.
  )
  c.evaluation = dict(
    examples=1_000,  # Of each test, for the result.
    curve_examples=200,  # The same for every point of the curves.
    batch_size=200,
  )
  c.every = dict(log=50, evaluate=500, checkpoint=500)  # Updates of a model.
  if mode == "full":
    papers_sizes(c)
    c.models.rim.update(active=4, input_heads=1)
    c.train.updates = 100_000
  elif mode == "smoke":
    tiny(c)
    c.task.update(digits=2, blanks=(2, 4))
  elif mode:
    raise ValueError(f"mode must be {_MODES}; got {mode!r}.")
  return c.lock()


def set_units(c: ml_collections.ConfigDict, size: int) -> None:
  """Units of one RIM; LSTM and GRU get as many as all RIMs together."""
  c.models.rim.size = size
  c.models.lstm.size = c.models.gru.size = size * c.models.rim.rims


def papers_sizes(c: ml_collections.ConfigDict) -> None:
  """600 units in 6 RIMs, and all else of the paper's appendix."""
  set_units(c, 100)
  c.models.rim.update(
    embed=600,
    input_keys=64,
    input_values=400,
    input_heads=4,
    input_dropout=0.1,
    presence=0.0,
    communication="residual",
    communication_keys=32,
    communication_values=32,
    communication_heads=4,
    communication_dropout=0.1,
    computation="gathered",
  )
  c.train.batch_size = 64
  c.models.transformer.update(width=256, layers=4, dropout=0.1)
  c.train.update(learning_rate=7e-4, decay_from=1.0)
  c.evaluation.update(examples=10_000, curve_examples=1_000)
  c.every.update(log=100, evaluate=5_000, checkpoint=5_000)


def tiny(c: ml_collections.ConfigDict) -> None:
  """Models and a run for tests."""
  c.models.rim.update(rims=3, active=2, embed=2)
  set_units(c, 2)
  c.models.rim.update(input_keys=2, input_values=2)
  c.models.rim.update(communication_keys=2, communication_values=2)
  c.models.transformer.update(width=4, layers=1, heads=2)
  c.train.update(updates=2, batch_size=2)
  c.evaluation.update(examples=4, curve_examples=4, batch_size=2)
  c.every.update(log=1, evaluate=2, checkpoint=1)
