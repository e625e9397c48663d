"""Builds the parts of a run from its config, and opens the folder of a run."""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import optax

from icm_jax import competition, models, types
from icm_jax import mechanisms as mechanisms_lib
from icm_jax.competition import expert_axis, remedies
from icm_jax.data import augment, sources
from icm_jax.data import problem as problem_lib
from icm_jax.data import roles as roles_lib
from icm_jax.evaluation import evaluator, evaluators, restoration
from icm_jax.training import checkpoint, ranges, run_folder

if TYPE_CHECKING:
  import ml_collections


class Run(NamedTuple):
  """The parts of a run that do not change.

  Attributes:
    problem: images and their parts.
    mechanism_names: M names, of image mechanisms or of the problem's groups.
    mechanisms: M functions; none where the problem has groups.
    augmentation: random changes of training images, before a mechanism acts.
    setup: networks, optimizers and rules of the competition.
    classifier: the evaluation classifier; None if the problem has no classes,
      or no clean counterparts of its test images.
    curve: few test images, on which states are measured during training.
    final: many test images, on which the result is measured.
    evaluators: functions that measure what the config asks for beyond that, by
      the evaluator's name; see `evaluation.evaluators`.
  """

  problem: problem_lib.Problem
  mechanism_names: tuple[str, ...]
  mechanisms: tuple[mechanisms_lib.Mechanism, ...]
  augmentation: augment.Augmentation
  setup: types.Setup
  classifier: types.Network | None
  curve: restoration.TestSet
  final: restoration.TestSet
  evaluators: dict[str, evaluator.Measure]


def build(
  config: ml_collections.ConfigDict,
  *,
  progress: Callable[[str, int, int], None] | None = None,
) -> Run:
  """Builds all parts, and checks everything that the user can get wrong.

  Args:
    config: as `experiments/configs/mnist.py` documents it.
    progress: called as data are prepared, with what is prepared, how much is
      done, and the total.

  Raises:
    InputError: what was expected, what came, and how to fix it.
  """
  ranges.check(config)
  num_experts(config)
  evaluators.check_installed(config)
  mechanism_names, mechanisms = make_mechanisms(config)
  data = load_data(config, progress=progress)
  problem = make_problem(config, data)
  if problem.group_names:
    mechanism_names, mechanisms = problem.group_names, ()
    if config.pairs.steps:
      raise types.InputError(
        "--config.pairs.steps needs mechanisms that are functions: images of "
        "groups come without their originals."
      )
  for mechanism in mechanisms:
    mechanisms_lib.check_fit(mechanism, problem.shape_HWC)
  setup = make_setup(config, problem.shape_HWC)
  # Networks that do not fit together fail here, before any training.
  jax.eval_shape(
    lambda key: init_state(key, config, setup), jax.random.key(config.seed)
  )
  classifier = None
  if num_classes := _num_classes(problem):
    classifier = make_classifier(num_classes, problem.shape_HWC)

  def make_test_set(num_examples):
    examples = restoration.make_examples(
      problem,
      mechanisms,
      seed=config.seed,
      num_examples=num_examples,
    )
    return restoration.TestSet(
      examples,
      setup,
      classifier,
      num_mechanisms=len(mechanism_names),
      batch_size=config.evaluation.batch_size,
    )

  augmentation = augment.Augmentation(**config.data.augment)
  final = make_test_set(config.evaluation.examples)
  parts = evaluator.Parts(
    config=config,
    data=data,
    problem=problem,
    mechanism_names=mechanism_names,
    mechanisms=mechanisms,
    augmentation=augmentation,
    setup=setup,
    classifier=classifier,
    examples=final.examples,
    load_expert=load_single_network,
    progress=progress,
  )
  return Run(
    problem=problem,
    mechanism_names=mechanism_names,
    mechanisms=mechanisms,
    augmentation=augmentation,
    setup=setup,
    classifier=classifier,
    curve=make_test_set(config.evaluation.curve_examples),
    final=final,
    evaluators=evaluators.build(parts),
  )


def saw(config: ml_collections.ConfigDict, run: Run) -> dict[str, Any]:
  """What a run took from its data, for `config.json`: see `open_run`.

  Returns:
    JSON data: `image_shape`, [H, W, C]; `classes`, K of the evaluation
    classifier, None without one; `mechanisms`, M names; `experts`, E at the
    start; `data`, what `decoded.Images.digests` says of all images.
  """
  return {
    "image_shape": [int(side) for side in run.problem.shape_HWC],
    "classes": _num_classes(run.problem),
    "mechanisms": list(run.mechanism_names),
    "experts": num_experts(config),
    "data": dict(run.problem.images.digests),
  }


class Opened(NamedTuple):
  """A run that was opened from its folder, without its data.

  Attributes:
    config: of the run.
    saw: see the function of this name.
    setup: of the competition.
    classifier: the evaluation classifier; None without one.
    saved: the newest checkpoint that can be read.
  """

  config: ml_collections.ConfigDict
  saw: dict[str, Any]
  setup: types.Setup
  classifier: types.Network | None
  saved: checkpoint.Saved


def open_run(workdir: pathlib.Path) -> Opened:
  """Reads a run's networks and its newest checkpoint.

  Raises:
    InputError: the folder holds no run of images of this format, or no
      checkpoint that can be read.
  """
  config, saw = run_folder.read(workdir)
  if "image_shape" not in saw:
    raise types.InputError(f"{workdir} must hold a run of images.")
  shape_HWC = tuple(saw["image_shape"])
  setup = make_setup(config, shape_HWC)
  classifier = None
  if saw["classes"] is not None:
    classifier = make_classifier(saw["classes"], shape_HWC)
  with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
    saved = checkpoints.read_newest(*abstract_state(config, setup, classifier))
  return Opened(config, saw, setup, classifier, saved)


def load_single_network(
  workdir: pathlib.Path, shape_HWC: tuple[int, int, int]
) -> Callable[[jax.Array], jax.Array]:
  """Reads the only expert of another run, as a function of images.

  Args:
    workdir: of a run with one expert.
    shape_HWC: of the images that it will be applied to.

  Raises:
    InputError: the folder holds no such run, or one of other images.
  """
  is_run = run_folder.holds_run(workdir)
  if not is_run or run_folder.read(workdir).config.experts.count != 1:
    raise types.InputError(
      "--config.detection.single_network must be the folder of a finished "
      f"run with one expert, as of one_network.py; {workdir} is not."
    )
  opened = open_run(workdir)
  if tuple(opened.saw["image_shape"]) != tuple(shape_HWC):
    raise types.InputError(
      "--config.detection.single_network must be a run of images of the same "
      f"shape, {list(shape_HWC)}; {workdir} saw "
      f"{opened.saw['image_shape']}."
    )
  apply = functools.partial(
    competition.restore, opened.saved.state, setup=opened.setup
  )
  return lambda x_BHWC: apply(x_BHWC).restored_BHWC


def init_state(
  key: jax.Array, config: ml_collections.ConfigDict, setup: types.Setup
) -> types.TrainState:
  """The state before any training."""
  return competition.init_state(key, setup, num_experts(config))


def num_experts(config: ml_collections.ConfigDict) -> int:
  """E; where it is to be found out, the number at the start.

  Raises:
    InputError: it is neither a positive number nor auto; or it is auto, and
      nobody could retire.
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


def abstract_state(
  config: ml_collections.ConfigDict,
  setup: types.Setup,
  classifier: types.Network | None,
) -> tuple[types.TrainState, types.PyTree]:
  """Shapes and dtypes of the state and of the classifier's parameters."""
  key = jax.random.key(config.seed)
  state = jax.eval_shape(lambda key: init_state(key, config, setup), key)
  if classifier is None:
    return state, {}
  return state, jax.eval_shape(classifier.init, key)[0]


def make_mechanisms(
  config: ml_collections.ConfigDict,
) -> tuple[tuple[str, ...], tuple[mechanisms_lib.Mechanism, ...]]:
  """Names and functions of the config's mechanisms.

  On the command line, names may also come as one text: `right,down,noise`.
  """
  parameters = config.mechanisms.to_dict()
  names = tuple(
    name.strip() for text in parameters.pop("names") for name in text.split(",")
  )
  return names, mechanisms_lib.by_names(names, parameters)


def load_data(
  config: ml_collections.ConfigDict,
  *,
  progress: Callable[[str, int, int], None] | None = None,
) -> sources.DataSet:
  """Loads the config's data set, with all groups that it knows."""
  c = config.data
  return sources.load(
    c.name,
    image_size=c.image_size,
    view={name: c[name] for name in ("channels", "crop", "max_pixels")},
    data_dir=c.dir,
    manual_dir=c.manual_dir,
    download=c.download,
    max_images=c.max_images,
    progress=progress,
  )


def make_problem(
  config: ml_collections.ConfigDict, data: sources.DataSet
) -> problem_lib.Problem:
  """Splits a data set into its parts; checks that batches fit into them."""
  c = config.data
  groups = _listed(c.groups)
  roles = roles_lib.choose(data.roles, groups or data.default_groups)
  if c.canonical:
    roles = roles._replace(canonical=c.canonical)
  problem = problem_lib.make_problem(
    data._replace(roles=roles),
    seed=config.seed,
    share_people=c.share_people,
  )
  num_sources, num_canonical = map(
    len, (problem.transformed_ids, problem.canonical_ids)
  )
  # Images of groups are drawn with repetition, so few of them are enough.
  smallest = (
    num_canonical if problem.group_names else min(num_sources, num_canonical)
  )
  pools = {"train": smallest, "identity": num_sources}
  if config.pairs.steps:
    pools["pairs"] = num_sources
  if _num_classes(problem):
    pools["classifier"] = len(problem.train_ids)
  for path, available in pools.items():
    batch_size = config[path].batch_size
    if batch_size > available:
      raise types.InputError(
        f"--config.{path}.batch_size={batch_size} is larger than the "
        f"{available} images of {config.data.name} that it draws from."
      )
  return problem


def _listed(names: str) -> tuple[str, ...]:
  """Splits names at commas."""
  return tuple(name.strip() for name in names.split(",") if name.strip())


def make_classifier(
  num_classes: int, shape_HWC: tuple[int, int, int]
) -> types.Network:
  """The evaluation classifier."""
  return models.from_linen(
    models.ConvClassifier(num_classes=num_classes), shape_HWC
  )


def _num_classes(problem: problem_lib.Problem) -> int | None:
  """K; None where the accuracy of a classifier cannot be measured."""
  label_N = problem.images.label_N
  if label_N is None or problem.group_names:
    return None
  return int(label_N.max()) + 1


def make_setup(
  config: ml_collections.ConfigDict, shape_HWC: tuple[int, int, int]
) -> types.Setup:
  """Networks, optimizers and remedies."""
  for name in ("experts", "discriminator"):
    if config[name].norm not in models.NORMS:
      raise types.InputError(
        f"--config.{name}.norm must be one of {', '.join(models.NORMS)}; "
        f"got {config[name].norm!r}."
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
    expert_map=config.experts.map,
  )


def make_optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """Adam of one network, whose learning rate may halve again and again.

  Steps are those in which the network learned. The schedule does not depend on
  the length of the run, so that a longer run starts as a shorter one does.
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
