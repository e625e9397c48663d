"""From the config of a sequence experiment to its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from icm_jax import models, rng, types
from icm_jax.data import problem as problem_lib
from icm_jax.data import sequences, sources
from icm_jax.training import ranges

if TYPE_CHECKING:
  import ml_collections

TASKS = ("copying", "adding", "seqmnist", "balls")


class SequenceRun(NamedTuple):
  """The parts of a run that do not change.

  Attributes:
    task: what is learned.
    networks: models by name, in the order in which they are trained.
    tx: optimizer of each model.
  """

  task: sequences.Task
  networks: dict[str, models.SequenceNetwork]
  tx: optax.GradientTransformation


@chex.dataclass(frozen=True)
class SequenceState:
  """Everything that an update changes.

  Attributes:
    step: [] int32, completed updates of all models together.
    key: [] typed PRNG key of the run; folded, never advanced.
    params: parameters by model.
    opt: optimizer states by model.
  """

  step: jax.Array
  key: jax.Array
  params: dict[str, types.PyTree]
  opt: dict[str, optax.OptState]


def build(
  config: ml_collections.ConfigDict,
  *,
  progress: Callable[[str, int, int], None] | None = None,
) -> SequenceRun:
  """Builds everything, and checks all that the user can get wrong.

  Args:
    config: as `experiments/configs/rim_copying.py` documents it.
    progress: told how far preparing the data is.

  Raises:
    InputError: what was expected, what came, and how to fix it.
  """
  check_numbers(config)
  task = make_task(config, progress=progress)
  fields = config.models.to_dict()
  names = [name.strip() for name in fields.pop("names").split(",")]
  if len(set(names)) < len(names):
    raise types.InputError(
      f"--config.models.names must name each model once; got {names}."
    )
  networks = {
    name: models.make_sequence_model(
      name,
      fields.get(name, {}),
      num_inputs=task.num_inputs,
      num_outputs=task.num_outputs,
    )
    for name in names
  }
  run = SequenceRun(task, networks, make_optimizer(config.train))
  # Models that cannot be made fail here, not after minutes.
  abstract_state(config, run)
  return run


def init_state(key: jax.Array, run: SequenceRun) -> SequenceState:
  """The state before any training."""
  params = {
    name: network.init(rng.stream(key, name))
    for name, network in run.networks.items()
  }
  return SequenceState(
    step=jnp.zeros((), jnp.int32),
    key=rng.stream(key, "run"),
    params=params,
    opt={name: run.tx.init(value) for name, value in params.items()},
  )


def abstract_state(
  config: ml_collections.ConfigDict, run: SequenceRun
) -> SequenceState:
  """Shapes and dtypes of the state."""
  key = jax.random.key(config.seed)
  return jax.eval_shape(lambda key: init_state(key, run), key)


# The least value of every count.
_AT_LEAST = {
  "seed": 0,
  "train.updates": 1,
  "train.batch_size": 1,
  "evaluation.examples": 1,
  "evaluation.curve_examples": 1,
  "evaluation.batch_size": 1,
  "every.log": 1,
  "every.evaluate": 0,
  "every.checkpoint": 0,
}


def check_numbers(config: ml_collections.ConfigDict) -> None:
  """Checks that numbers lie in their ranges.

  Raises:
    InputError: the first one that does not.
  """
  ranges.check_least(config, _AT_LEAST)
  for name in ("learning_rate", "clip"):
    if not config.train[name] > 0:
      raise types.InputError(
        f"--config.train.{name} must be above 0; got {config.train[name]}."
      )
  if not 0 <= config.train.decay_from <= 1:
    raise types.InputError(
      "--config.train.decay_from must be in [0, 1]; got "
      f"{config.train.decay_from}."
    )


def make_task(
  config: ml_collections.ConfigDict,
  *,
  progress: Callable[[str, int, int], None] | None = None,
) -> sequences.Task:
  """The config's task; data is read if it needs any."""
  fields = config.task.to_dict()
  name = fields.pop("name")
  if name == "copying":
    return sequences.make_copying(**fields)
  if name == "adding":
    return sequences.make_adding(**fields)
  if name == "balls":
    return sequences.make_balls(**fields)
  if name == "seqmnist":
    c = config.data
    data = sources.load(
      c.name,
      image_size=28,
      view={"channels": 1, "crop": None, "max_pixels": None},
      data_dir=c.dir,
      manual_dir=c.manual_dir,
      download=c.download,
      max_images=sources.MAX_IMAGES,
      progress=progress,
    )
    problem = problem_lib.make_problem(data, seed=config.seed)
    return sequences.make_digits(problem, **fields)
  raise types.InputError(
    f"--config.task.name must be one of {', '.join(TASKS)}; got {name!r}."
  )


def make_optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """Adam with gradients clipped, whose learning rate falls to 0 at the end."""
  before = round(config.decay_from * config.updates)
  schedule = optax.join_schedules(
    [
      optax.constant_schedule(config.learning_rate),
      optax.cosine_decay_schedule(
        config.learning_rate, max(1, config.updates - before)
      ),
    ],
    [before],
  )
  return optax.chain(
    optax.clip_by_global_norm(config.clip), optax.adam(schedule)
  )
