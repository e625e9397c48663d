"""The record of an evaluator, an evaluation that a config can ask for.

The measures of every run (wins, coverage, accuracy, PSNR) are no evaluators:
`restoration` and `specialisation` compute them, and evaluators build on them.
Each evaluator is a record in a file of its own, and `evaluators` lists them.
"""

from __future__ import annotations

import functools
import operator
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np

from icm_jax import mechanisms as mechanisms_lib
from icm_jax import types
from icm_jax.data import augment, sources
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import probe, restoration

if TYPE_CHECKING:
  import ml_collections

T = TypeVar("T")


class Once(Generic[T]):
  """A value that is computed once, when the first evaluator needs it.

  Attributes:
    value: the value; None until an evaluator has asked for it.
  """

  def __init__(self, find: Callable[[], T]):
    self._find = find
    self.value: T | None = None

  def __call__(self) -> T:
    """Returns the value; the first call computes it."""
    if self.value is None:
      self.value = self._find()
    return self.value


class Parts(NamedTuple):
  """The parts of a run from which evaluators are built, before training.

  Attributes:
    config: config of the run.
    data: the run's data set, with all groups and labels that it knows.
    problem: the same data set, split into its parts.
    mechanism_names: M names, of image mechanisms or of the problem's groups.
    mechanisms: M functions; none where the problem has groups.
    augmentation: random changes of training images.
    setup: networks, optimizers and rules of the competition.
    classifier: the evaluation classifier; None if the problem has no classes,
      or no clean counterparts of its test images.
    examples: transformed test images.
    judge: the probe that judges attributes; None if the problem has no groups,
      or the config names no attributes.
    load_expert: function that reads the only expert of another run, from the
      run's folder and the shape of one image, (H, W, C); returns a function of
      images.
    progress: called while a data set is prepared, with the name of the work,
      the number of finished items, and the total; None reports nothing.
  """

  config: ml_collections.ConfigDict
  data: sources.DataSet
  problem: problem_lib.Problem
  mechanism_names: tuple[str, ...]
  mechanisms: tuple[mechanisms_lib.Mechanism, ...]
  augmentation: augment.Augmentation
  setup: types.Setup
  classifier: types.Network | None
  examples: restoration.Examples
  judge: Once[probe.Judge] | None
  load_expert: Callable[
    [pathlib.Path, tuple[int, int, int]], Callable[[jax.Array], jax.Array]
  ]
  progress: Callable[[str, int, int], None] | None


class Trained(NamedTuple):
  """A trained run, which evaluators measure.

  Attributes:
    state: state of the run.
    classifier: parameters of the evaluation classifier; empty without one.
    wins_EM: counts on the run's own test images, which determine a mechanism's
      own expert.
    margin: gain in score below which an image is left alone, in logits (see
      `chains.find_margin`).
  """

  state: types.TrainState
  classifier: types.PyTree
  wins_EM: np.ndarray
  margin: Once[float]


# Function from a trained run to JSON data, a value of `result.json`.
Measure = Callable[[Trained], dict[str, Any]]


class Need(NamedTuple):
  """A requirement of an evaluator.

  Attributes:
    is_met: whether the parts of a run meet the requirement.
    text: the requirement, as the end of a sentence that begins with
      "--config.NAME needs".
  """

  is_met: Callable[[Parts], bool]
  text: str


CLASSES = Need(
  lambda parts: parts.classifier is not None,
  "a data set with classes, and mechanisms that are functions: a classifier "
  "judges images before and after the experts.",
)
GROUPS = Need(
  lambda parts: bool(parts.problem.group_names),
  "--config.data.groups, attributes that images carry already.",
)
JUDGED = Need(
  lambda parts: not parts.problem.group_names or parts.judge is not None,
  "--config.attributes.names where mechanisms are --config.data.groups: the "
  "images of groups come without their originals, so that a probe judges them.",
)
IMAGE_MECHANISMS = Need(
  lambda parts: not parts.problem.group_names,
  "mechanisms that are functions: images of groups come without their "
  "originals, and the mechanisms of groups cannot be applied to other images.",
)


class Evaluator(NamedTuple):
  """An evaluation that a config can ask for.

  Attributes:
    name: name of the evaluator's value in `result.json`, and of its section of
      the page.
    asked_by: path of the config's value that asks for the evaluator if it is
      neither zero nor empty.
    needs: requirements of the evaluator.
    build: function that loads and checks everything that is available before
      training, and returns the function that measures; raises InputError if
      the config is wrong.
    check_installed: function of the config that raises InputError if a package
      is missing; it is called before any data are loaded.
  """

  name: str
  asked_by: str
  needs: tuple[Need, ...]
  build: Callable[[Parts], Measure]
  check_installed: Callable[[ml_collections.ConfigDict], object] = (
    lambda config: None
  )

  def is_asked(self, config: ml_collections.ConfigDict) -> bool:
    """Whether a config asks for the evaluator."""
    path = self.asked_by.split(".")
    return bool(functools.reduce(operator.getitem, path, config))

  def check_needs(self, parts: Parts) -> None:
    """Checks that the parts of a run meet all requirements.

    Raises:
      InputError: a requirement is not met; names it.
    """
    for need in self.needs:
      if not need.is_met(parts):
        raise types.InputError(f"--config.{self.asked_by} needs {need.text}")
