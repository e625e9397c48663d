"""Faces that a detector finds: boxes, their comparison, and crops of faces.

`evaluation.detectors` has the detectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from icm_jax import types


class Faces(NamedTuple):
  """N faces that a detector finds in one image, in descending order of scores.

  Attributes:
    box_N4: float32 left, top, right, bottom, in pixels of the image.
    score_N: float32 in [0, 1].
  """

  box_N4: np.ndarray
  score_N: np.ndarray


# Function from images, float32 [B, H, W, C] in [0, 1] with 1 or 3 channels, to
# the faces of each.
Detector = Callable[[np.ndarray], list[Faces]]


class Match(NamedTuple):
  """Comparison of found with expected faces.

  Attributes:
    recall: share of the expected faces that are found, in [0, 1]; None if none
      were expected.
    false_detections: number of found but not expected faces per image.
  """

  recall: float | None
  false_detections: float


def of_crops(
  detect: Detector, *, side: int, border: int, batch_size: int
) -> Detector:
  """Makes a detector of crops from a detector of photographs.

  Detectors are trained on whole photographs: they find almost no face that
  fills a small crop, unless the crop is enlarged and gets a border.

  Args:
    detect: detector of images [B, side, side, 3].
    side: side of enlarged crops with their border, in pixels.
    border: width of the black border, in pixels; less than half of `side`.
    batch_size: number of images in one call of `detect`.

  Returns:
    A detector of square images of any size.

  Raises:
    InputError: the border leaves no image.
  """
  if border < 0 or side <= 2 * border:
    raise types.InputError(
      f"side must be larger than two borders; got side={side}, border={border}."
    )

  def detect_crops(x_BHWC):
    found = []
    for start in range(0, len(x_BHWC), batch_size):
      small_BHWC = x_BHWC[start : start + batch_size]
      large_BHWC = enlarge(small_BHWC, side=side, border=border)
      rgb_BHWC = np.broadcast_to(large_BHWC, (*large_BHWC.shape[:3], 3))
      scale = small_BHWC.shape[1] / (side - 2 * border)
      found += [
        Faces(
          ((faces.box_N4 - border) * scale).astype(np.float32), faces.score_N
        )
        for faces in detect(rgb_BHWC)
      ]
    return found

  return detect_crops


def enlarge(x_BHWC: np.ndarray, *, side: int, border: int) -> np.ndarray:
  """Enlarges images and adds a black border.

  Args:
    x_BHWC: float32 in [0, 1].
    side: side of the result, in pixels.
    border: width of the border, in pixels; less than half of `side`.

  Returns:
    [B, side, side, C] float32 in [0, 1].
  """
  inner = side - 2 * border
  shape = (len(x_BHWC), inner, inner, x_BHWC.shape[-1])
  inner_BHWC = np.asarray(jax.image.resize(x_BHWC, shape, "linear"))
  edge = (border, border)
  return np.pad(inner_BHWC, ((0, 0), edge, edge, (0, 0)))


def suppress(
  box_N4: np.ndarray, score_N: np.ndarray, *, most_overlap: float
) -> np.ndarray:
  """Non-maximum suppression: indices of the boxes to keep, best first.

  In descending order of scores, each kept box drops the boxes after it whose
  intersection over union with it is above `most_overlap`.
  """
  kept = []
  waiting = np.argsort(-score_N, kind="stable")
  while len(waiting):
    best, waiting = waiting[0], waiting[1:]
    kept.append(best)
    overlap_N = overlaps(box_N4[[best]], box_N4[waiting])[0]
    waiting = waiting[overlap_N <= most_overlap]
  return np.array(kept, int)


def overlaps(a_N4: np.ndarray, b_N4: np.ndarray) -> np.ndarray:
  """Intersection over union of all pairs of boxes; rows are those of `a_N4`."""
  a, b = a_N4[:, None], b_N4[None]
  sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(
    a[..., :2], b[..., :2]
  )
  common = np.maximum(sides, 0).prod(axis=-1)
  area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(axis=-1) for x in (a, b))
  return common / np.maximum(area_a + area_b - common, 1e-9)


def match(
  expected: Sequence[Faces],
  found: Sequence[Faces],
  *,
  least_overlap: float = 0.5,
) -> Match:
  """Compares found with expected faces, image by image.

  In descending order of scores, each found face is matched to the expected face
  that it overlaps most, among those that are not matched yet.

  Args:
    expected: expected faces of every image.
    found: found faces of every image.
    least_overlap: lowest intersection over union of boxes of the same face.
  """
  num_expected = num_found = num_matched = 0
  for wanted, got in zip(expected, found, strict=True):
    overlap_NN = overlaps(got.box_N4, wanted.box_N4)
    num_expected += len(wanted.box_N4)
    num_found += len(got.box_N4)
    for row in range(len(got.box_N4) if len(wanted.box_N4) else 0):
      column = overlap_NN[row].argmax()
      if overlap_NN[row, column] >= least_overlap:
        num_matched += 1
        overlap_NN[:, column] = 0.0
  return Match(
    num_matched / num_expected if num_expected else None,
    (num_found - num_matched) / max(len(found), 1),
  )
