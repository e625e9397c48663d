"""Networks, optimizers and remedies of a config, and the state before training.

Nothing here needs data, so that a run can be opened without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import optax

from icm_jax import competition, models, types
from icm_jax.competition import expert_axis, remedies

if TYPE_CHECKING:
  import ml_collections


def make_setup(
  config: ml_collections.ConfigDict, shape_HWC: tuple[int, int, int]
) -> types.Setup:
  """Makes networks, optimizers and remedies.

  Args:
    config: config of the run.
    shape_HWC: shape of one image.

  Raises:
    InputError: a name is unknown, or a number is out of its range.
  """
  for name in ("experts", "discriminator"):
    if config[name].norm not in models.NORMS:
      raise types.InputError(
        f"--config.{name}.norm must be one of {', '.join(models.NORMS)}; "
        f"got {config[name].norm!r}."
      )
  if config.identity.by_construction and config.experts.norm != "none":
    raise types.InputError(
      "Experts that copy by construction have no normalisation; got "
      f"--config.experts.norm={config.experts.norm}. Train them to copy by "
      "--config.identity.by_construction=False --config.identity.max_steps=500."
    )
  expert_axis.check(config.experts.map)
  dtype = config.train.compute_dtype
  # Fields of one kind of expert only are in a section of its name.
  own = config.experts.get(config.experts.network, {})
  chosen = config.remedies.to_dict()
  if config.experts.count == "auto":
    chosen["relocation"].update(
      alike=config.experts.auto.alike,
      max_share=config.experts.auto.max_share,
    )
    # A handicap would keep surplus experts busy, with a part of a mechanism.
    del chosen["balance"]
  if "referee" in chosen:  # Earlier runs do not know it.
    chosen["referee"]["network"] = models.from_linen(
      models.ConvClassifier(1, norm="batch"), shape_HWC, compute_dtype=dtype
    )
  return types.Setup(
    expert=models.make_expert(
      config.experts.network,
      shape_HWC,
      compute_dtype=dtype,
      features=config.experts.features,
      norm=config.experts.norm,
      copies=config.identity.by_construction,
      **own,
    ),
    discriminator=models.make_discriminator(
      config.discriminator.network,
      shape_HWC,
      compute_dtype=dtype,
      features=config.discriminator.features,
      hidden=config.discriminator.hidden,
      norm=config.discriminator.norm,
    ),
    expert_tx=make_optimizer(config.experts),
    discriminator_tx=make_optimizer(config.discriminator),
    remedies=remedies.from_sections(chosen),
    losers_learn=config.experts.losers_learn,
    losers=num_losers(config),
    expert_map=config.experts.map,
  )


def make_optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """Makes Adam for one network, with a learning rate that may decay.

  The schedule counts the steps in which the network learned. It does not depend
  on the length of the run, so that a longer run begins like a shorter one.

  Args:
    config: section `experts` or `discriminator`.
  """
  learning_rate = config.learning_rate
  if config.half_life:
    learning_rate = optax.exponential_decay(
      learning_rate,
      transition_steps=config.half_life,
      decay_rate=0.5,
      transition_begin=config.decay_begin,
    )
  return optax.adam(learning_rate, b1=config.b1)


def make_classifier(
  num_classes: int, shape_HWC: tuple[int, int, int]
) -> types.Network:
  """Makes the evaluation classifier."""
  return models.from_linen(
    models.ConvClassifier(num_classes=num_classes), shape_HWC
  )


def init_state(
  key: jax.Array, config: ml_collections.ConfigDict, setup: types.Setup
) -> types.TrainState:
  """Returns the state before any training."""
  return competition.init_state(key, setup, num_experts(config))


def num_experts(config: ml_collections.ConfigDict) -> int:
  """Returns the number of experts at the start, E.

  Raises:
    InputError: the config's number is neither positive nor auto; or it is auto,
      and its settings let no expert retire.
  """
  c = config.experts
  if c.count == "auto":
    every = config.remedies.relocation.every
    if not (every and c.auto.alike):
      raise types.InputError(
        "--config.experts.count=auto needs --config.remedies.relocation.every, "
        "steps after which experts retire, and --config.experts.auto.alike, "
        "the distance below which one of two experts does; got "
        f"{every} and {c.auto.alike}."
      )
    return c.auto.most
  if not isinstance(c.count, int) or c.count < 1:
    raise types.InputError(
      f"--config.experts.count must be at least 1, or auto; got {c.count!r}."
    )
  return c.count


def num_losers(config: ml_collections.ConfigDict) -> int | None:
  """Returns the number of losers that the discriminator learns from.

  Returns:
    The number; None is all.

  Raises:
    InputError: the config's number is neither positive nor all.
  """
  losers = config.competition.losers
  if losers == "all":
    return None
  if isinstance(losers, bool) or not isinstance(losers, int) or losers < 1:
    raise types.InputError(
      f"--config.competition.losers must be at least 1, or all; got {losers!r}."
    )
  return losers


def abstract_state(
  config: ml_collections.ConfigDict,
  setup: types.Setup,
  classifier: types.Network | None,
) -> tuple[types.TrainState, types.PyTree]:
  """Returns shapes and dtypes of the state and the classifier's parameters."""
  key = jax.random.key(config.seed)
  state = jax.eval_shape(lambda key: init_state(key, config, setup), key)
  if classifier is None:
    return state, {}
  return state, jax.eval_shape(classifier.init, key)[0]
