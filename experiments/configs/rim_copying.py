"""Copying ten digits after a pause: RIMs compared with three other models.

  python -m experiments.train --config=experiments/configs/rim_copying.py \
      --workdir=runs/rim_copying

Models are trained with 50 blanks and tested with 200 (Goyal et al., 2021, Sec.
4.1, which reports cross entropies of 0.00 for RIMs and 3.56 to 4.32 for LSTMs).
A blank is an input of zeros.

Measured on 1,000 sequences: docs/rim.md. RIMs learn the task, and keep what
they have read over a pause four times as long as in training. An LSTM with as
many parameters learns it too, with a rate of its own and a memory bias.

All models have as many parameters and updates. Rates and memory biases were
chosen on validation sequences (--config.task.measured=validation).

Four choices differ from the paper's:

* `presence`: from the start, half of the RIMs prefer inputs and half prefer
  none. Without it (6 RIMs of 24 units, batches of 64, a constant learning rate,
  seed 0) the cross entropy was 1.09 after 2,500 updates: the set of active RIMs
  changed with every digit, so no RIM read all digits. With it, the same three
  RIMs are active at all digits and questions, and the other three at all
  blanks.
* Communication is gated, as in the authors' code. With the paper's residual
  form, states may grow without bound, because inactive RIMs keep what was added
  to them and others attend to it again.
* LSTM and GRU start with gates that keep their states.
* Models are smaller.

rim_copying.py:full has the paper's sizes; no run of it was completed. On one
core an update takes about 1.3 s for RIMs, 0.65 s for the LSTM, 0.3 s for the
GRU and 0.75 s for the Transformer (measured over 2 or 3 updates each, with an
older and slower RIM cell), so 100,000 updates of each would take about 80
hours.

Modes, after a colon: none, for two CPU cores; `full`, the paper's sizes, not
run; `smoke`, a few steps of tiny models, for tests.
"""

import ml_collections

_MODES = "none, full or smoke"


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  """The copying experiment; mode is empty, full or smoke."""
  c = ml_collections.ConfigDict()
  c.kind = "rim"  # experiments.kinds.KINDS
  c.seed = 0  # Seed of parameters, batches, dropout and tests.
  # Numbers of blanks: the first is used for training, the last is the hardest
  # test.
  c.task = dict(
    name="copying",
    digits=10,
    blanks=(50, 200),
    measured="test",  # Or validation, to choose settings.
  )
  c.models = dict(
    names="rim,lstm,gru,transformer",  # Trained in this order.
    rim=dict(
      learning_rate=1e-2,
      clip=1.0,  # Largest norm of a gradient.
      rims=6,
      active=3,
      size=48,  # Units of one RIM.
      kind="lstm",  # lstm or gru
      embed=16,  # Features of the input's embedding; 0 uses no embedding.
      presence=10.0,  # Half of the RIMs prefer inputs; the paper has 0.
      input_keys=16,
      input_values=32,
      input_heads=1,
      input_dropout=0.0,
      communication_keys=16,
      communication_values=16,
      communication_heads=2,
      communication_dropout=0.0,
      communication="gated",  # gated; or residual, as in the paper.
      communication_gradient="all",  # all; or active, as in the authors' code.
    ),
    # Sizes give all models as many parameters as the RIMs have.
    # Gates that start at a memory bias of 3 keep 95 % of a state.
    lstm=dict(learning_rate=3e-3, clip=1.0, size=186, memory_bias=3.0),
    gru=dict(learning_rate=1e-2, clip=1.0, size=215, memory_bias=3.0),
    transformer=dict(
      learning_rate=3e-3, clip=1.0, width=76, layers=2, heads=4, dropout=0.0
    ),
  )
  c.train = dict(
    updates=5_000,  # Updates of each model.
    batch_size=16,
    decay_from=0.4,  # Share of updates after which the rate decays to 0.
  )
  c.evaluation = dict(
    examples=1_000,  # Sequences of each test, for the result.
    curve_examples=200,  # Sequences of each test, for a point of a curve.
    batch_size=200,
  )
  # Updates of a model from one event to the next; 0 is never.
  c.every = dict(log=50, evaluate=500, checkpoint=500)
  if mode == "full":
    set_paper_sizes(c)
    c.models.rim.update(active=4, input_heads=1)
    c.train.updates = 100_000
  elif mode == "smoke":
    set_tiny_sizes(c)
    c.task.update(digits=2, blanks=(2, 4))
  elif mode:
    raise ValueError(f"mode must be {_MODES}; got {mode!r}.")
  return c.lock()


def set_rates(c: ml_collections.ConfigDict, **rates: float) -> None:
  """Sets the learning rates of models by name."""
  for model, learning_rate in rates.items():
    c.models[model].learning_rate = learning_rate


def set_units(c: ml_collections.ConfigDict, size: int) -> None:
  """Sets the units of a RIM; LSTM and GRU get those of all RIMs together.

  As in the paper, these start without a memory bias.
  """
  c.models.rim.size = size
  units = size * c.models.rim.rims
  for name in ("lstm", "gru"):
    c.models[name].update(size=units, memory_bias=0.0)


def set_paper_sizes(c: ml_collections.ConfigDict) -> None:
  """Sets the sizes of the paper's appendix: 600 units in 6 RIMs."""
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
  )
  c.train.batch_size = 64
  c.models.transformer.update(width=256, layers=4, dropout=0.1)
  c.train.decay_from = 1.0
  set_rates(c, rim=7e-4, lstm=7e-4, gru=7e-4, transformer=7e-4)
  c.evaluation.update(examples=10_000, curve_examples=1_000)
  c.every.update(log=100, evaluate=5_000, checkpoint=5_000)


def set_tiny_sizes(c: ml_collections.ConfigDict) -> None:
  """Makes models and the run small enough for tests."""
  c.models.rim.update(rims=3, active=2, embed=2)
  set_units(c, 2)
  c.models.rim.update(input_keys=2, input_values=2)
  c.models.rim.update(communication_keys=2, communication_values=2)
  c.models.transformer.update(width=4, layers=1, heads=2)
  c.train.update(updates=2, batch_size=2)
  c.evaluation.update(examples=4, curve_examples=4, batch_size=2)
  c.every.update(log=1, evaluate=2, checkpoint=1)
