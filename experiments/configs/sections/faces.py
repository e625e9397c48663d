"""Experiments with photographs of faces."""

import ml_collections

from experiments.configs.sections import paper, remedies


def photographs(mode: str) -> ml_collections.ConfigDict:
  """Returns a config for photographs, with networks and training but no data.

  Args:
    mode: mode of `paper.experiment`.
  """
  c = paper.experiment(mode)
  remedies.add(c, mode)
  # An expert that sees the whole face draws an average face for any input.
  c.experts.network = "unet"
  c.experts.unet.levels = 1
  # U-Nets copy by construction: the change that they add starts near zero.
  c.identity.update(by_construction=True, max_steps=0)
  # Scores of photographs are closer together than those of digits.
  c.remedies.balance.weight = 0.5
  c.remedies.signature.weight = 1.0
  if mode == "smoke":
    return c
  c.experts.features = 16 if mode == "full" else 8
  c.discriminator.hidden = 256
  c.train.batch_size = 32 if mode == "full" else 16
  c.train.steps = 10_000
  c.evaluation.examples = 1_200
  c.every.update(log=20, evaluate=100, checkpoint=100)
  return c


def few_people(mode: str) -> ml_collections.ConfigDict:
  """Returns `photographs` with settings for some dozens of people.

  Args:
    mode: mode of `paper.experiment`.
  """
  c = photographs(mode)
  # The discriminator soon memorises 32 people, or 160 pictures.
  c.data.share_people = True
  c.data.augment = dict(
    flip=0.5, shift=0.03, zoom=0.1, contrast=0.2, brightness=0.1
  )
  if mode != "smoke":
    c.experts.update(learning_rate=5e-4, decay_begin=500, half_life=250)
  return c


def attributes(mode: str, groups: tuple[str, ...]) -> ml_collections.ConfigDict:
  """Returns `photographs` of many people that carry their mechanisms already.

  Args:
    mode: mode of `paper.experiment`.
    groups: names of the mechanisms' groups; there is an expert for each.
  """
  c = photographs(mode)
  c.data.groups = ",".join(groups)
  c.experts.count = len(groups)
  # The discriminator must not distinguish the sides by their people.
  c.data.share_people = True
  c.data.augment.update(
    flip=0.5, shift=0.03, zoom=0.05, contrast=0.1, brightness=0.05
  )
  c.data.image_size = 64 if mode == "full" else 48
  if mode == "smoke":
    return c
  # Attributes separate images less than noise does: the discriminator has to
  # learn them before its scores tell the experts anything.
  c.discriminator.learning_rate = 2e-3
  c.remedies.signature.weight = 0.5
  c.remedies.r1.weight = 0.02
  c.experts.update(learning_rate=5e-4, decay_begin=800, half_life=300)
  c.experts.unet.levels = 2
  if mode == "embedded":
    c.data.image_size = 40
    c.train.steps = 1_200
  return c
