"""Another data set, on which a run's experts are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from icm_jax import mechanisms as mechanisms_lib
from icm_jax import types
from icm_jax.data import pictures, sources
from icm_jax.data import problem as problem_lib
from icm_jax.data import roles as roles_lib
from icm_jax.evaluation import restoration

if TYPE_CHECKING:
  import ml_collections


class Transfer(NamedTuple):
  """Another data set, which experts are tried on: all of it is a test.

  Attributes:
    problem: its images; nothing is trained on them.
    examples: some of them, transformed.
  """

  problem: problem_lib.Problem
  examples: restoration.Examples


def build(
  config: ml_collections.ConfigDict,
  problem: problem_lib.Problem,
  mechanisms: tuple[mechanisms_lib.Mechanism, ...],
  *,
  progress: Callable[[str, int, int], None] | None = None,
) -> Transfer | None:
  """The data set that experts are tried on; None without one.

  Args:
    config: as `experiments/configs/mnist.py` documents it.
    problem: of the run itself.
    mechanisms: M functions, which act on the other images too.
    progress: told how far preparing the data is.

  Raises:
    InputError: the run's own mechanisms cannot act on that data set.
  """
  c = config.transfer
  if not c.name:
    return None
  if problem.group_names:
    raise types.InputError(
      "--config.transfer.name needs mechanisms that are functions; those of "
      "groups cannot be applied to other images."
    )
  view = {"channels": problem.shape_HWC[-1]}
  geometries = mechanisms_lib.GEOMETRIES
  # What was learned of faces in one place is of no use for faces in another.
  if {c.name, config.data.name} <= geometries.keys() and not config.data.crop:
    view["frame"] = pictures.Frame(
      *mechanisms_lib.alignment(
        geometries[c.name], geometries[config.data.name]
      )
    )
  data = sources.load(
    c.name,
    image_size=config.data.image_size,
    view=view,
    data_dir=config.data.dir,
    manual_dir=c.manual_dir,
    download=config.data.download,
    max_images=config.data.max_images,
    progress=progress,
  )
  roles = roles_lib.choose(data.roles, ())
  if c.canonical:
    roles = roles._replace(canonical=c.canonical)
  other = problem_lib.make_problem(data._replace(roles=roles), seed=config.seed)
  # Nothing is trained on it.
  everything = np.concatenate([other.train_ids, other.test_ids])
  other = other._replace(test_ids=np.sort(everything))
  examples = restoration.make_examples(
    other, mechanisms, seed=config.seed, num_examples=c.examples
  )
  return Transfer(other, examples)
