"""What an evaluator is: one of the evaluations that a config can ask for.

What every run is measured by (wins, coverage, accuracy, PSNR) is no evaluator:
`restoration` and `specialisation` compute it, and evaluators build on it. An
evaluator is a record in a file of its own, and `evaluators` lists them all.
"""

from __future__ import annotations

import functools
import operator
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from icm_jax import mechanisms as mechanisms_lib
from icm_jax import types
from icm_jax.data import augment, sources
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import restoration

if TYPE_CHECKING:
  import ml_collections


class Parts(NamedTuple):
  """What evaluators are built from, before anything is trained.

  Attributes:
    config: config of the run, as `experiments/configs/mnist.py` documents it.
    data: the run's data set, with all groups and labels that it knows.
    problem: the same data set, split into its parts.
    mechanism_names: M names, of image mechanisms or of the problem's groups.
    mechanisms: M functions; none where the problem has groups.
    augmentation: random changes of training images.
    setup: networks, optimizers and rules of the competition.
    classifier: the evaluation classifier; None if the problem has no classes,
      or no clean counterparts of its test images.
    examples: transformed test images.
    load_expert: reads the only expert of another run, as a function of
      images, from the run's folder and the shape of one image, (H, W, C).
    progress: called as a data set is prepared, with what is prepared, how much
      is done, and the total.
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
  load_expert: Callable[
    [pathlib.Path, tuple[int, int, int]], Callable[[jax.Array], jax.Array]
  ]
  progress: Callable[[str, int, int], None] | None


class Margin:
  """How much experts must gain (`chains.find_margin`), found once if needed.

  Attributes:
    value: in logits; None until an evaluator asked for it.
  """

  def __init__(self, find: Callable[[], float]):
    self._find = find
    self.value: float | None = None

  def __call__(self) -> float:
    """The margin, which the first call finds."""
    if self.value is None:
      self.value = self._find()
    return self.value


class Trained(NamedTuple):
  """What evaluators measure.

  Attributes:
    state: state of the run.
    classifier: parameters of the evaluation classifier; empty without one.
    wins_EM: counts on the run's own test images; they say which expert is a
      mechanism's own.
    margin: what an expert must gain, or an image is left alone.
  """

  state: types.TrainState
  classifier: types.PyTree
  wins_EM: np.ndarray
  margin: Margin


# Returns JSON data, a value of `result.json`.
Measure = Callable[[Trained], dict[str, Any]]


class Need(NamedTuple):
  """Something that an evaluator cannot do without.

  Attributes:
    is_met: whether it is there.
    text: what it is; goes on with "--config.NAME needs".
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
IMAGE_MECHANISMS = Need(
  lambda parts: not parts.problem.group_names,
  "mechanisms that are functions: images of groups come without their "
  "originals, and the mechanisms of groups cannot be applied to other images.",
)


class Evaluator(NamedTuple):
  """An evaluation that a config can ask for.

  Attributes:
    name: of its value in `result.json`, and of its section of the page.
    asked_by: path of the config's value that asks for it, by being neither
      zero nor empty.
    needs: what must be there.
    build: loads and checks what can be had before training, and returns the
      function that measures; raises InputError for what the user can get wrong.
    check_installed: raises InputError if a package is missing; called before
      any data are loaded.
  """

  name: str
  asked_by: str
  needs: tuple[Need, ...]
  build: Callable[[Parts], Measure]
  check_installed: Callable[[], None] = lambda: None

  def is_asked(self, config: ml_collections.ConfigDict) -> bool:
    """Whether a config asks for it."""
    path = self.asked_by.split(".")
    return bool(functools.reduce(operator.getitem, path, config))

  def check_needs(self, parts: Parts) -> None:
    """Makes sure that what it needs is there.

    Raises:
      InputError: names what is missing.
    """
    for need in self.needs:
      if not need.is_met(parts):
        raise types.InputError(f"--config.{self.asked_by} needs {need.text}")
