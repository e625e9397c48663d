"""Copying ten digits after a pause: RIMs, and three models to compare with.

  python -m experiments.train --config=experiments/configs/rim_copying.py \
      --workdir=runs/rim_copying

Trained with 50 blanks, tested with 200 (Goyal et al., 2021, Sec. 4.1, where
cross entropies are 0.00 for RIMs and 3.56 to 4.32 for LSTMs).

Measured so far, seed 0, one core of a busy machine, and none to its end; cross
entropies with 50 and with 200 blanks, of which chance is 2.08:

  --config.models.names=rim,lstm        RIMs after 2,500 updates  1.09, 1.10
  --config.models.names=lstm
      --config.train.updates=1000       LSTM after 500 updates    2.08, 2.08

How long the whole takes on two free cores was not measured.

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
