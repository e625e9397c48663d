"""Builds the parts of a run from its config."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from icm_jax import mechanisms as mechanisms_lib
from icm_jax import types
from icm_jax.data import augment, sources
from icm_jax.data import problem as problem_lib
from icm_jax.data import roles as roles_lib
from icm_jax.evaluation import attributes, evaluator, evaluators, restoration
from icm_jax.training import networks, ranges, saved_run

if TYPE_CHECKING:
  import ml_collections


class Run(NamedTuple):
  """The parts of a run that do not change.

  Attributes:
    problem: images and their parts.
    mechanism_names: M names, of image mechanisms or of the problem's groups.
    mechanisms: M functions; empty if the problem has groups.
    augmentation: random changes of training images, before a mechanism acts.
    setup: setup of the competition.
    classifier: the evaluation classifier; None if the problem has no classes,
      or no clean counterparts of its test images.
    curve: few test images, on which states are measured during training.
    final: many test images, on which the result is measured.
    evaluators: functions of the evaluators that the config asks for, by name;
      see `evaluation.evaluators`.
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
  """Builds all parts of a run, and checks its config.

  Args:
    config: config with the keys of `experiments/configs/sections/paper.py`.
    progress: called while data are prepared, with the name of the work, the
      number of finished items, and the total.

  Raises:
    InputError: the config is wrong; says what was expected, what came, and how
      to fix it.
  """
  ranges.check(config)
  networks.num_experts(config)
  evaluators.check_installed(config)
  mechanism_names, mechanisms = make_mechanisms(config)
  data = load_data(config, progress=progress)
  problem = make_problem(config, data)
  if problem.group_names:
    mechanism_names, mechanisms = problem.group_names, ()
    if config.pairs.steps:
      raise types.InputError(
        "--config.pairs.steps needs mechanisms that are functions, because "
        "images of groups come without their originals."
      )
  for mechanism in mechanisms:
    mechanisms_lib.check_fit(mechanism, problem.shape_HWC)
  setup = networks.make_setup(config, problem.shape_HWC)
  # Networks that do not fit together fail here, before any training.
  jax.eval_shape(
    lambda key: networks.init_state(key, config, setup),
    jax.random.key(config.seed),
  )
  classifier = None
  if num_classes := _num_classes(problem):
    classifier = networks.make_classifier(num_classes, problem.shape_HWC)

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
    judge=attributes.promise_judge(config, data, problem, augmentation),
    load_expert=saved_run.load_single_network,
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
  """Returns the facts that a run took from its data, for `config.json`.

  With them, `saved_run.open_run` makes the run's networks without its data.

  Returns:
    JSON data: `image_shape`, [H, W, C]; `classes`, K of the evaluation
    classifier, None without one; `mechanisms`, M names; `experts`, E at the
    start; `data`, what `decoded.Images.digests` says of all images.
  """
  return {
    "image_shape": [int(side) for side in run.problem.shape_HWC],
    "classes": _num_classes(run.problem),
    "mechanisms": list(run.mechanism_names),
    "experts": networks.num_experts(config),
    "data": dict(run.problem.images.digests),
  }


def make_mechanisms(
  config: ml_collections.ConfigDict,
) -> tuple[tuple[str, ...], tuple[mechanisms_lib.Mechanism, ...]]:
  """Returns names and functions of the config's mechanisms.

  On the command line, names may also come as one text: `right,down,noise`.

  Raises:
    InputError: a name or a parameter is unknown.
  """
  parameters = config.mechanisms.to_dict()
  names = tuple(
    name.strip()
    for text in parameters.pop("names")
    for name in str(text).split(",")
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
  """Splits a data set into its parts.

  Raises:
    InputError: a part has no images, or fewer than a batch needs.
  """
  c = config.data
  groups = _listed(c.groups)
  roles = roles_lib.choose(data.roles, groups or data.default_groups)
  if c.canonical:
    roles = roles._replace(canonical=c.canonical)
  problem = problem_lib.make_problem(
    data._replace(roles=roles),
    seed=config.seed,
    share_people=c.share_people,
    matched=roles_lib.choose(data.roles, _listed(c.matched)).groups,
    measured=c.measured,
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


def _num_classes(problem: problem_lib.Problem) -> int | None:
  """Returns K; None if the accuracy of a classifier cannot be measured."""
  label_N = problem.images.label_N
  if label_N is None or problem.group_names:
    return None
  return int(label_N.max()) + 1
