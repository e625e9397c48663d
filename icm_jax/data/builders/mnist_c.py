"""MNIST-C: MNIST's test images under fifteen corruptions."""

from __future__ import annotations

import io
import pathlib
import zipfile
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import base, files
from icm_jax.mechanisms import corruptions

ZIP, FOLDER = "mnist_c.zip", "mnist_c"
# Folders of the benchmark.
CORRUPTIONS = ("identity", *corruptions.BENCHMARK)
_IMAGES, _LABELS = "test_images.npy", "test_labels.npy"
_MOST = 10_000
_Folder = pathlib.Path | zipfile.Path


class MnistC(base.ImageBuilder):
  """MNIST-C, up to 10,000 test images of each corruption, 28x28 grey.

  The files are the folders of corruptions, or the published zip of them. There
  may be fewer images than in the benchmark, and fewer corruptions. No checksum
  is compared, since that of the published zip is not known here: shapes, types
  and labels are checked. The benchmark's training images are not read.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "mnist_c"
  DESCRIPTION = "MNIST's test images, clean and under fifteen corruptions."
  HOMEPAGE = "https://github.com/google-research/mnist-c"
  CITATION = """\
@article{mu2019mnist,
  title={{MNIST-C}: a robustness benchmark for computer vision},
  author={Mu, Norman and Gilmer, Justin},
  journal={arXiv:1906.02337}, year={2019}
}
"""
  TERMS = (
    "(c) Norman Mu and Justin Gilmer, Creative Commons Attribution 4.0; made "
    "from MNIST, (c) Yann LeCun and Corinna Cortes, Creative Commons "
    "Attribution-Share Alike 3.0."
  )
  IMAGE_SHAPE = (28, 28, 1)
  COLUMNS: ClassVar = {
    "label": tfds.features.ClassLabel(num_classes=10),
    "corruption": tfds.features.Text(),
  }
  ORIGINALS = (
    ZIP,
    *(
      f"{folder}{corruption}/{file}"
      for folder in ("", f"{FOLDER}/")
      for corruption in CORRUPTIONS
      for file in (_IMAGES, _LABELS)
    ),
  )
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f"Put here {ZIP}, or its folders {', '.join(CORRUPTIONS)}, or some of "
    f"them, each with {_IMAGES} and {_LABELS}."
  )

  def _split_generators(self, dl_manager):
    del dl_manager
    root = self._root()
    found = [name for name in CORRUPTIONS if (root / name).is_dir()]
    if not found:
      raise types.InputError(
        f"No folder of a corruption in {root}. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
    return {"test": self._generate_examples(root, found)}

  def _root(self) -> _Folder:
    """The folder of the corruptions' folders, which may lie in the zip."""
    zipped = self._manual_dir / ZIP
    root = (
      zipfile.Path(files.open_zip(zipped))
      if zipped.is_file()
      else self._manual_dir
    )
    return root / FOLDER if (root / FOLDER).is_dir() else root

  def _generate_examples(self, root: _Folder, found: Sequence[str]):
    index = 0
    for corruption in found:
      images, labels = _read(root / corruption)
      for image_HWC, label in zip(images, labels, strict=True):
        yield (
          index,
          {
            "image": files.png(image_HWC[..., 0]),
            "label": int(label),
            "corruption": corruption,
          },
        )
        index += 1


def _read(folder: _Folder) -> tuple[np.ndarray, np.ndarray]:
  """Reads images, uint8 [N, 28, 28, 1], and labels, integers [N].

  Raises:
    InputError: a file is missing or damaged, or has other content.
  """
  image_NHWC, label_N = (_read_npy(folder / f) for f in (_IMAGES, _LABELS))
  count = len(image_NHWC) if image_NHWC.ndim else 0
  if (
    image_NHWC.dtype != np.uint8
    or image_NHWC.shape != (count, *MnistC.IMAGE_SHAPE)
    or not 1 <= count <= _MOST
  ):
    raise types.InputError(
      f"{folder / _IMAGES} must have uint8 of shape [N, 28, 28, 1], N from 1 "
      f"to {_MOST:,}; got {image_NHWC.dtype} of {image_NHWC.shape}."
    )
  if (
    label_N.dtype.kind not in "iu"
    or label_N.shape != (count,)
    or not 0 <= label_N.min() <= label_N.max() <= 9
  ):
    raise types.InputError(
      f"{folder / _LABELS} must have {count:,} whole numbers from 0 to 9, one "
      f"for each image; got {label_N.dtype} of shape {label_N.shape}."
    )
  return image_NHWC, label_N


def _read_npy(path: _Folder) -> np.ndarray:
  """Reads an array of numbers; pickled objects are refused.

  Raises:
    InputError: the file is missing, is no such array, or is truncated.
  """
  if not path.is_file():
    raise types.InputError(
      f"Missing: {path}. {MnistC.MANUAL_DOWNLOAD_INSTRUCTIONS}"
    )
  try:
    stream = io.BytesIO(path.read_bytes())
    return np.lib.format.read_array(stream, allow_pickle=False)
  # Damaged zips and headers raise almost anything.
  except Exception as error:
    reason = str(error).partition("\n")[0] or type(error).__name__
    raise types.InputError(
      f"{path} cannot be read as an array ({reason}). Replace it by the "
      "benchmark's file."
    ) from error
