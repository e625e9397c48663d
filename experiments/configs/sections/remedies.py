"""The default remedies, and the networks that were measured with them."""

import ml_collections


def add(c: ml_collections.ConfigDict, mode: str) -> None:
  """Adds the remedies that make the paper's experiment dependable.

  Args:
    c: config of `paper.experiment`; it is changed.
    mode: mode of the config.
  """
  c.remedies.signature.weight = 2.0
  c.remedies.balance.weight = 3.0
  c.remedies.winner_weight.weight = 0.5
  c.remedies.r1.weight = 0.1
  c.remedies.averages.steps = 50.0
  c.remedies.relocation.every = 2 if mode == "smoke" else 25
  c.experts.update(norm="none", half_life=250 if mode == "full" else 200)
  c.discriminator.network = "conv_centred"
  # The few thousand pixels of a small batch are enough to learn copying.
  c.identity.update(batch_size=2 if mode == "smoke" else 4, learning_rate=2e-3)
