"""The Yale Face Database: 15 people in 11 conditions."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import base, files

FOLDER = "yalefaces"
CONDITIONS = (
  "centerlight",
  "glasses",
  "happy",
  "leftlight",
  "noglasses",
  "normal",
  "rightlight",
  "sad",
  "sleepy",
  "surprised",
  "wink",
)
_NAME = re.compile(
  rf"(?P<person>subject\d\d)\.(?P<condition>{'|'.join(CONDITIONS)})(\.gif)?",
  re.ASCII,
)


class YaleFaces(base.ImageBuilder):
  """The Yale Face Database, 165 grey faces, 320 wide and 243 high.

  The authors put a copy of subject04.normal in the place of subject04.sad.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "yale_faces"
  DESCRIPTION = (
    "Faces of 15 people in 11 conditions: light, glasses, expressions."
  )
  HOMEPAGE = "http://cvc.cs.yale.edu/cvc/projects/yalefaces/yalefaces.html"
  CITATION = """\
@article{belhumeur1997eigenfaces,
  title={Eigenfaces vs. {F}isherfaces: recognition using class specific linear
    projection},
  author={Belhumeur, Peter N. and Hespanha, Jo{\\~a}o P. and
    Kriegman, David J.},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume={19}, number={7}, pages={711--720}, year={1997}
}
"""
  TERMS = (
    "Free for research. Publications must acknowledge the Yale Face Database "
    "and cite its paper. Without permission from Yale, images must not become "
    "part of a larger database that is distributed publicly."
  )
  IMAGE_SHAPE = (None, None, 1)
  COLUMNS: ClassVar = {
    "file": tfds.features.Text(),
    "person": tfds.features.Text(),
    "condition": tfds.features.Text(),
  }
  ORIGINALS = (FOLDER,)
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f"Put here the folder {FOLDER} with the files subjectNN.<condition>, such "
    "as subject01.glasses."
  )

  def _split_generators(self, dl_manager):
    del dl_manager
    folder = files.require(
      self._folder(FOLDER), self.MANUAL_DOWNLOAD_INSTRUCTIONS
    )
    matches = []
    for path in sorted(folder.glob("*")):
      match = _NAME.fullmatch(path.name)
      if match and path.is_file():
        matches.append(match)
      elif path.name != "Readme.txt" and not path.name.startswith("."):
        self._skip(f"{FOLDER}/{path.name}", "not a file subjectNN.<condition>")
    if not matches:
      raise types.InputError(
        f"No file in {folder} is a face of the Yale Face Database. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
    return {"train": self._generate_examples(folder, matches)}

  def _generate_examples(
    self, folder: pathlib.Path, matches: Sequence[re.Match]
  ):
    return self._grey_faces(
      folder,
      matches,
      lambda match: {
        "person": match["person"],
        "condition": match["condition"],
      },
      "Replace the pictures by the original files.",
    )
