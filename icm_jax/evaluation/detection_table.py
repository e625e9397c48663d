"""Faces that a detector finds before and after experts, by mechanism."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from icm_jax import competition, rng, types
from icm_jax import mechanisms as mechanisms_lib
from icm_jax.competition import chain_search
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import (
  classical,
  detection,
  evaluator,
  restoration,
)
from icm_jax.evaluation.detectors import centerface

if TYPE_CHECKING:
  import ml_collections

# Versions of transformed images, in the order of the page's columns.
VERSIONS = (
  "transformed",
  "restored",
  "oracle",
  "gated",
  "single_network",
  "classical",
)


def table(
  detect: detection.Detector,
  clean_NHWC: np.ndarray,
  clean_gated_NHWC: np.ndarray,
  versions: Mapping[str, Mapping[str, np.ndarray | None]],
) -> dict[str, dict[str, Any]]:
  """Measures detection on versions of the same images.

  Args:
    detect: the detector.
    clean_NHWC: float32 in [0, 1]; faces found here are the expected faces.
    clean_gated_NHWC: the same images after the gate and experts.
    versions: versions of the images by mechanism and name; None if a version
      does not exist.

  Returns:
    By mechanism: recall by version, None if the version does not exist; recall
    of `clean`, which is 1 if any face is found, and of `clean_gated`, both the
    same for all mechanisms; `faces`, the number of expected faces; and, as
    `false_detections`, the number of other faces per image, by version.
  """
  detect = _looks_once(detect)
  expected = detect(clean_NHWC)
  same_for_all = {
    "clean": detection.match(expected, expected),
    "clean_gated": detection.match(expected, detect(clean_gated_NHWC)),
  }
  rows = {}
  for name, images in versions.items():
    matches = {
      version: None
      if x_NHWC is None
      else detection.match(expected, detect(x_NHWC))
      for version, x_NHWC in images.items()
    } | same_for_all
    rows[name] = {
      **{
        version: None if match is None else match.recall
        for version, match in matches.items()
      },
      "faces": sum(len(faces.score_N) for faces in expected),
      "false_detections": {
        version: None if match is None else match.false_detections
        for version, match in matches.items()
      },
    }
  return rows


def _looks_once(detect: detection.Detector) -> detection.Detector:
  """Wraps a detector so that equal images are processed once.

  Detection takes most of the time, and versions share many images: the winner's
  output is often that of the right expert, and gated images are restored or
  transformed ones.
  """
  known = {}

  def look(x_NHWC):
    names = [hashlib.sha256(x_HWC.tobytes()).digest() for x_HWC in x_NHWC]
    new = {name: n for n, name in enumerate(names) if name not in known}
    if new:
      found = detect(x_NHWC[list(new.values())])
      known.update(zip(new, found, strict=True))
    return [known[name] for name in names]

  return look


def evaluate(
  state: types.TrainState,
  problem: problem_lib.Problem,
  mechanisms: Sequence[mechanisms_lib.Mechanism],
  wins_EM: np.ndarray,
  names: Sequence[str],
  *,
  setup: types.Setup,
  detect: detection.Detector,
  single_network: Callable[[jax.Array], jax.Array] | None,
  seed: int,
  examples: int,
  batch_size: int,
  margin: float,
) -> dict[str, dict[str, Any]]:
  """Measures a state's experts by what a detector finds.

  Args:
    state: state of a run.
    problem: problem with test images.
    mechanisms: M functions.
    wins_EM: counts on the run's test images, which determine a mechanism's own
      expert.
    names: M names.
    setup: setup of the run.
    detect: the detector.
    single_network: pure function of one network for all mechanisms, from
      another run; None if there is none.
    seed: seed of the order of images and of random mechanisms.
    examples: largest number of test images, which are the same for every
      mechanism.
    batch_size: number of images in one call of the experts.
    margin: gain in logits below which the gate leaves an image alone.

  Returns:
    As `table`: `restored` by the winner, `oracle` by the mechanism's own
    expert, `classical` by `classical.restore`. `gated` is `restored` if that
    gains the margin, else the unchanged image; `clean_gated` is the same for
    clean images.
  """
  order = np.random.default_rng(seed).permutation(len(problem.test_ids))
  ids = problem.test_ids[order[:examples]]
  clean_NHWC = np.asarray(problem_lib.to_float(problem.images.image_NHWC[ids]))

  @jax.jit
  def gate(state, x_BHWC):
    return chain_search.search(
      state, x_BHWC, setup=setup, max_length=1, width=1, margin=margin
    )

  @jax.jit
  def restore(state, x_BHWC):
    restored = competition.restore(state, x_BHWC, setup=setup)
    # The expert axis goes last, so that batches join along the first.
    output_BHWCE = restored.output_EBHWC.transpose(1, 2, 3, 4, 0)
    single_BHWC = single_network(x_BHWC) if single_network else None
    is_open_B = gate(state, x_BHWC).length_B == 1
    return restored.restored_BHWC, output_BHWCE, single_BHWC, is_open_B

  versions = {}
  for m, (name, mechanism) in enumerate(zip(names, mechanisms, strict=True)):
    key = rng.stream(jax.random.key(seed), "detection", m)
    x_NHWC = np.asarray(
      jax.jit(jax.vmap(mechanism))(
        jax.random.split(key, len(clean_NHWC)), clean_NHWC
      )
    )
    restored_NHWC, output_NHWCE, single_NHWC, is_open_N = (
      restoration.by_batches(restore, state, x_NHWC, batch_size=batch_size)
    )
    images = (
      x_NHWC,
      restored_NHWC,
      output_NHWCE[..., wins_EM[:, m].argmax()],
      np.where(is_open_N[:, None, None, None], restored_NHWC, x_NHWC),
      single_NHWC,
      classical.restore(mechanism, x_NHWC),
    )
    versions[name] = dict(zip(VERSIONS, images, strict=True))
  gated_NHWC = restoration.by_batches(
    gate, state, clean_NHWC, batch_size=batch_size
  ).restored_BHWC
  return table(detect, clean_NHWC, gated_NHWC, versions)


def _check_installed(config: ml_collections.ConfigDict) -> None:
  del config
  classical.check_installed()
  centerface.check_installed()


def _build(parts: evaluator.Parts) -> evaluator.Measure:
  config = parts.config
  single_network = None
  if config.detection.single_network:
    single_network = parts.load_expert(
      pathlib.Path(config.detection.single_network), parts.problem.shape_HWC
    )
  detect = centerface.load()

  def measure(trained):
    return evaluate(
      trained.state,
      parts.problem,
      parts.mechanisms,
      trained.wins_EM,
      parts.mechanism_names,
      setup=parts.setup,
      detect=detect,
      single_network=single_network,
      seed=config.seed,
      examples=config.detection.examples,
      batch_size=config.evaluation.batch_size,
      margin=trained.margin(),
    )

  return measure


EVALUATOR = evaluator.Evaluator(
  "detection",
  asked_by="detection.examples",
  needs=(evaluator.IMAGE_MECHANISMS,),
  build=_build,
  check_installed=_check_installed,
)
