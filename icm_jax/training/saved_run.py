"""Runs that are opened from their folders, without their data."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from icm_jax import competition, types
from icm_jax.training import checkpoint, networks, run_folder

if TYPE_CHECKING:
  import ml_collections


class Opened(NamedTuple):
  """A run that was opened from its folder, without its data.

  Attributes:
    config: config of the run.
    saw: facts that the run took from its data, see the function `saw`.
    setup: setup of the competition.
    classifier: the evaluation classifier; None without one.
    saved: the newest checkpoint that can be read.
  """

  config: ml_collections.ConfigDict
  saw: dict[str, Any]
  setup: types.Setup
  classifier: types.Network | None
  saved: checkpoint.Saved


def open_run(workdir: pathlib.Path, *, steps: int | None = None) -> Opened:
  """Makes a run's networks and reads its newest checkpoint, without its data.

  Args:
    workdir: folder of the run.

  Raises:
    InputError: the folder holds no run of images of this format, or no
      checkpoint that can be read.
  """
  config, saw = run_folder.read(workdir)
  if "image_shape" not in saw:
    raise types.InputError(f"{workdir} must hold a run of images.")
  shape_HWC = tuple(saw["image_shape"])
  setup = networks.make_setup(config, shape_HWC)
  classifier = None
  if saw["classes"] is not None:
    classifier = networks.make_classifier(saw["classes"], shape_HWC)
  saved = checkpoint.read(
    workdir, *networks.abstract_state(config, setup, classifier), steps=steps
  )
  return Opened(config, saw, setup, classifier, saved)


def load_single_network(
  workdir: pathlib.Path, shape_HWC: tuple[int, int, int]
) -> Callable[[jax.Array], jax.Array]:
  """Reads the only expert of another run.

  Args:
    workdir: folder of a run with one expert.
    shape_HWC: shape of the images to which the expert will be applied.

  Returns:
    A function from images, float32 in [0, 1], to restored images.

  Raises:
    InputError: the folder holds no run with one expert, or its images have
      another shape.
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
