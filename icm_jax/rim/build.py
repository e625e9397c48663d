"""Builds the parts of an experiment with RIMs from its config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from icm_jax import rng, types
from icm_jax.data import problem as problem_lib
from icm_jax.data import sources
from icm_jax.rim import networks as networks_lib
from icm_jax.rim import tasks
from icm_jax.training import ranges

if TYPE_CHECKING:
  import ml_collections

TASKS = ("copying", "adding", "seqmnist", "balls")


class Run(NamedTuple):
  """The parts of a run that do not change.

  Attributes:
    task: the task that is learned.
    networks: networks by name, in the order in which they are trained.
    txs: the optimizer of each network.
    measured: one of `tasks.MEASURED`, on which networks are measured.
  """

  task: tasks.Task
  networks: dict[str, networks_lib.SequenceNetwork]
  txs: dict[str, optax.GradientTransformation]
  measured: str


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """Everything that an update changes.

  Attributes:
    step: [] int32, completed updates of all networks together.
    key: [] typed PRNG key of the run; folded with the step, never advanced.
    params: parameters by network.
    opt: optimizer states by network.
  """

  step: jax.Array
  key: jax.Array
  params: dict[str, types.PyTree]
  opt: dict[str, optax.OptState]


def build_run(
  config: ml_collections.ConfigDict,
  *,
  progress: Callable[[str, int, int], None] | None = None,
) -> Run:
  """Builds the parts of a run, and checks the config.

  Args:
    config: config with the keys of `experiments/configs/rim_copying.py`.
    progress: called while data are prepared, with the name of the work, the
      number of finished items, and the total.

  Raises:
    InputError: the config is wrong; says what was expected and what came.
  """
  check_numbers(config)
  task = make_task(config, progress=progress)
  fields = config.models.to_dict()
  names = [name.strip() for name in fields.pop("names").split(",")]
  if len(set(names)) < len(names):
    raise types.InputError(
      f"--config.models.names must name each model once; got {names}."
    )
  networks, txs = {}, {}
  for name in names:
    own = fields.get(name, {})
    training = {key: own.pop(key) for key in _RATES if key in own}
    networks[name] = networks_lib.make_network(
      name, own, num_inputs=task.num_inputs, num_outputs=task.num_outputs
    )
    txs[name] = make_optimizer(config.train, **training)
  run = Run(task, networks, txs, config.task.measured)
  # A network that cannot be initialised fails here, before any training.
  abstract_state(config, run)
  return run


def saw(run: Run) -> dict[str, Any]:
  """Returns what a run took from its data, JSON data for `config.json`."""
  return {
    "variants": list(run.task.variants),
    "data": dict(run.task.digests),
  }


def init_state(key: jax.Array, run: Run) -> State:
  """Returns the state before any training."""
  params = {
    name: network.init(rng.stream(key, name))
    for name, network in run.networks.items()
  }
  return State(
    step=jnp.zeros((), jnp.int32),
    key=rng.stream(key, "run"),
    params=params,
    opt={name: run.txs[name].init(value) for name, value in params.items()},
  )


def abstract_state(config: ml_collections.ConfigDict, run: Run) -> State:
  """Returns the shapes and dtypes of the state."""
  key = jax.random.key(config.seed)
  return jax.eval_shape(lambda key: init_state(key, run), key)


# Numbers above 0 that every model has for its own optimizer.
_RATES = ("learning_rate", "clip")
# The least value of each count of the config.
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
  """Checks that the config's numbers lie in their ranges.

  Raises:
    InputError: names the first number that does not.
  """
  ranges.check_numbers(config)
  ranges.check_least(config, _AT_LEAST)
  for model in networks_lib.NETWORKS:
    for name in _RATES:
      if not config.models[model][name] > 0:
        raise types.InputError(
          f"--config.models.{model}.{name} must be above 0; got "
          f"{config.models[model][name]}."
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
) -> tasks.Task:
  """Makes the config's task; reads a data set if the task needs one.

  Raises:
    InputError: the task is unknown, or its fields are out of range.
  """
  fields = config.task.to_dict()
  name, measured = fields.pop("name"), fields.pop("measured")
  if measured not in tasks.MEASURED:
    raise types.InputError(
      f"--config.task.measured must be one of {', '.join(tasks.MEASURED)}; got "
      f"{measured!r}."
    )
  if name == "copying":
    return tasks.make_copying(**fields)
  if name == "adding":
    return tasks.make_adding(**fields)
  if name == "balls":
    return tasks.make_balls(**fields)
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
    return tasks.make_digits(problem, measured=measured, **fields)
  raise types.InputError(
    f"--config.task.name must be one of {', '.join(TASKS)}; got {name!r}."
  )


def make_optimizer(
  config: ml_collections.ConfigDict, *, learning_rate: float, clip: float
) -> optax.GradientTransformation:
  """Makes Adam with clipped gradients and a rate that ends at 0.

  Args:
    config: the section `train`, for the number of updates and the decay.
    learning_rate: the rate until the decay begins.
    clip: largest norm of a gradient.
  """
  before = round(config.decay_from * config.updates)
  schedule = optax.join_schedules(
    [
      optax.constant_schedule(learning_rate),
      optax.cosine_decay_schedule(
        learning_rate, max(1, config.updates - before)
      ),
    ],
    [before],
  )
  return optax.chain(optax.clip_by_global_norm(clip), optax.adam(schedule))
