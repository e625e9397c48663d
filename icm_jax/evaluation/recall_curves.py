"""Faces with what they wear, as detectors find them before and after experts.

Images of groups come without their originals, so that nobody knows where a
detector would find a face without its glasses. But where a data set's faces are
aligned, they all lie in the same place: where the detector finds most canonical
faces. Detectors miss few faces that fill a picture; therefore pictures are also
reduced, after the experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from icm_jax import competition, types
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import detection, detectors, evaluator, restoration

if TYPE_CHECKING:
  import ml_collections

# Least scores of a detector, the points of a curve.
SCORES = (0.2, 0.35, 0.5, 0.65, 0.8)
# A canonical face with this score says where faces lie.
_CERTAIN = 0.5
# The median of all of CelebA's canonical test faces is 0.2 pixels away at most.
_MOST_CANONICAL = 400
_LEAST_OVERLAP = 0.5
_BOOTSTRAPS = 1_000


class Found(NamedTuple):
  """What a detector finds in N images with a face in the same place.

  Attributes:
    score_N: the best score of a box there, in [0, 1]; 0 if there is none.
    elsewhere_NS: numbers of boxes elsewhere, by the least scores of `SCORES`.
  """

  score_N: np.ndarray
  elsewhere_NS: np.ndarray


def place(faces: Sequence[detection.Faces]) -> np.ndarray | None:
  """Returns the median box of certain faces, [4]; None if there are none.

  Args:
    faces: faces of every image; the best one of each counts.
  """
  boxes = [
    one.box_N4[0]
    for one in faces
    if len(one.score_N) and one.score_N[0] >= _CERTAIN
  ]
  return np.median(boxes, axis=0) if boxes else None


def find(faces: Sequence[detection.Faces], box_4: np.ndarray) -> Found:
  """Compares the faces of every image with the place of its face.

  Args:
    faces: faces of every image, in descending order of scores.
    box_4: left, top, right and bottom of the place.
  """
  score_N = np.zeros(len(faces))
  elsewhere_NS = np.zeros((len(faces), len(SCORES)), int)
  for n, one in enumerate(faces):
    overlap_N = detection.overlaps(one.box_N4, box_4[None])[:, 0]
    there_N = overlap_N >= _LEAST_OVERLAP
    if there_N.any():
      score_N[n] = one.score_N[there_N].max()
    others_N = one.score_N[~there_N]
    elsewhere_NS[n] = [(others_N >= score).sum() for score in SCORES]
  return Found(score_N, elsewhere_NS)


def gain_interval(
  before_N: np.ndarray,
  after_N: np.ndarray,
  person_N: np.ndarray,
  *,
  seed: int,
) -> tuple[float, float]:
  """The 95 % interval of a mean gain, by a bootstrap over people.

  Args:
    before_N: values of N images before.
    after_N: values of the same images after.
    person_N: who is seen; all images of a person are drawn together.
    seed: seed of the draws.
  """
  rng = np.random.default_rng(seed)
  people, person_N = np.unique(person_N, return_inverse=True)
  gain_N = after_N.astype(float) - before_N
  gain_P = np.bincount(person_N, gain_N, len(people))
  images_P = np.bincount(person_N, minlength=len(people))
  drawn_KP = rng.integers(0, len(people), (_BOOTSTRAPS, len(people)))
  mean_K = gain_P[drawn_KP].sum(axis=1) / images_P[drawn_KP].sum(axis=1)
  low, high = np.quantile(mean_K, (0.025, 0.975))
  return float(low), float(high)


def evaluate(
  state: types.TrainState,
  problem: problem_lib.Problem,
  person_N: np.ndarray,
  detects: Mapping[str, detection.Detector],
  *,
  sizes: Sequence[int],
  setup: types.Setup,
  batch_size: int,
  seed: int,
) -> dict[str, Any]:
  """Measures detectors on test images of all groups, before and after.

  Args:
    state: state of a run.
    problem: a problem with M groups, whose faces are aligned.
    person_N: who is seen in all images of the data set, any dtype.
    detects: detectors by name, with least scores of at most the least of
      `SCORES`.
    sizes: sides to which images are reduced before detection, in pixels.
    setup: setup of the run.
    batch_size: number of images in one call of the experts.
    seed: seed of the bootstrap.

  Returns:
    `scores`, those of `SCORES`; and `by_detector`, by detector, group and size:
    number of `images` and of `people`; lists by score: `before` and `after` the
    winner, shares of images whose face is found; `low` and `high`, the bounds
    of the gain (see `gain_interval`); `elsewhere_before` and `elsewhere_after`,
    false detections per image. The value of a size is None if the detector
    finds no canonical face at that size.
  """
  restore = jax.jit(
    lambda state, x: competition.restore(state, x, setup=setup).restored_BHWC
  )
  group_N = problem.group_N[problem.test_ids]

  def images_of(ids):
    return np.asarray(problem_lib.to_float(problem.images.image_NHWC[ids]))

  # Canonical faces alone say where faces lie.
  canonical_NHWC = images_of(problem.test_ids[group_N < 0][:_MOST_CANONICAL])
  places = {
    (name, size): place(detect(reduce(canonical_NHWC, size)))
    for name, detect in detects.items()
    for size in sizes
  }
  rows: dict[str, dict[str, Any]] = {name: {} for name in detects}
  for m, group in enumerate(problem.group_names):
    ids = problem.test_ids[group_N == m]
    x_NHWC = images_of(ids)
    restored_NHWC = restoration.by_batches(
      restore, state, x_NHWC, batch_size=batch_size
    )
    for (name, size), box_4 in places.items():
      by_size = rows[name].setdefault(group, {})
      if box_4 is None:
        by_size[str(size)] = None
        continue
      before, after = (
        find(detects[name](reduce(view_NHWC, size)), box_4)
        for view_NHWC in (x_NHWC, restored_NHWC)
      )
      by_size[str(size)] = {
        "images": len(ids),
        "people": len(np.unique(person_N[ids])),
        **_curve(before, after, person_N[ids], seed),
      }
  return {"scores": list(SCORES), "by_detector": rows}


def _curve(
  before: Found, after: Found, person_N: np.ndarray, seed: int
) -> dict[str, list[float]]:
  """Returns lists of a curve, by score; see `evaluate`."""
  points = []
  for s, score in enumerate(SCORES):
    found_before_N, found_after_N = (
      before.score_N >= score,
      after.score_N >= score,
    )
    low, high = gain_interval(
      found_before_N, found_after_N, person_N, seed=seed
    )
    points.append(
      {
        "before": float(found_before_N.mean()),
        "after": float(found_after_N.mean()),
        "low": low,
        "high": high,
        "elsewhere_before": float(before.elsewhere_NS[:, s].mean()),
        "elsewhere_after": float(after.elsewhere_NS[:, s].mean()),
      }
    )
  return {key: [point[key] for point in points] for key in points[0]}


def reduce(x_NHWC: np.ndarray, size: int) -> np.ndarray:
  """Reduces square images to a size, by means over the pixels that it joins."""
  shape = (len(x_NHWC), size, size, x_NHWC.shape[-1])
  return np.asarray(jax.image.resize(x_NHWC, shape, "linear", antialias=True))


def _sizes(text: str, side: int) -> list[int]:
  """Reads the sizes of a config, and checks them.

  Raises:
    InputError: a size is no number, below 8, or larger than the images.
  """
  parts = [part.strip() for part in text.split(",")]
  if not all(part.isdecimal() and 8 <= int(part) <= side for part in parts):
    raise types.InputError(
      f"--config.detection.sizes must be numbers from 8 to {side}, the side of "
      f"the images, by commas; got {text!r}."
    )
  return [int(part) for part in parts]


def _check_installed(config: ml_collections.ConfigDict) -> None:
  for name in detectors.parse_names(config.detection.detectors):
    detectors.DETECTORS[name].check_installed()


def _build(parts: evaluator.Parts) -> evaluator.Measure:
  config, problem = parts.config, parts.problem
  sizes = _sizes(config.detection.sizes, problem.shape_HWC[0])
  if not (problem.group_N[problem.test_ids] < 0).any():
    raise types.InputError(
      "--config.detection.sizes needs canonical test images, which say where "
      "faces lie; there are none."
    )
  person = parts.data.roles.person
  detects = {
    name: detectors.DETECTORS[name].load(least_score=min(SCORES))
    for name in detectors.parse_names(config.detection.detectors)
  }

  def measure(trained):
    columns = problem.images.columns
    number_N = np.arange(len(problem.images.image_NHWC))
    return evaluate(
      trained.state,
      problem,
      columns[person] if person else number_N,
      detects,
      sizes=sizes,
      setup=parts.setup,
      batch_size=config.evaluation.batch_size,
      seed=config.seed,
    )

  return measure


EVALUATOR = evaluator.Evaluator(
  "recall_curves",
  asked_by="detection.sizes",
  needs=(evaluator.GROUPS,),
  build=_build,
  check_installed=_check_installed,
)
