"""UTKFace: faces from newborn to 116 years old."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import base, files

FOLDER = "UTKFace"
MAX_AGE = 120
GENDERS = {"0": "male", "1": "female"}
RACES = {
  "0": "White",
  "1": "Black",
  "2": "Asian",
  "3": "Indian",
  "4": "Others",
}
# Characters after the age must be printable ASCII, which any text can store.
_AGE = re.compile(r"(?P<age>[0-9]{1,9})_(?P<fields>[ -~]*)")
_COMPLETE = re.compile(r"[0-9]+_[01]_[0-4]_[0-9]+\.jpg\.chip\.jpg")


class UtkFace(base.ImageBuilder):
  """UTKFace, aligned and cropped: 23,708 faces, 200x200.

  Names of some files lack a field. Their other fields are read, unknown ones
  are "", and `complete` is False. Every example has an age.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "utkface"
  DESCRIPTION = "Aligned faces with age, gender and race."
  HOMEPAGE = "https://susanqq.github.io/UTKFace/"
  CITATION = """\
@inproceedings{zhang2017age,
  title={Age Progression/Regression by Conditional Adversarial Autoencoder},
  author={Zhang, Zhifei and Song, Yang and Qi, Hairong},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2017}
}
"""
  TERMS = (
    "For non-commercial research only. The images were collected from the "
    "Internet, and the copyright belongs to the original owners (data set by "
    "AICIP, University of Tennessee)."
  )
  COLUMNS: ClassVar = {
    "file": tfds.features.Text(),
    "age": np.int32,
    "gender": tfds.features.Text(),
    "race": tfds.features.Text(),
    "complete": np.bool_,
  }
  ORIGINALS = (FOLDER,)
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f"Put here the folder {FOLDER} of the aligned and cropped faces, with "
    "<age>_<gender>_<race>_<date&time>.jpg.chip.jpg."
  )

  def _split_generators(self, dl_manager):
    del dl_manager
    folder = self._folder(FOLDER)
    matches = []
    for path in self._pictures(folder) if folder.is_dir() else ():
      name = path.relative_to(folder).as_posix()
      match = _AGE.fullmatch(name)
      if "/" in name:
        self._skip(f"{FOLDER}/{name}", f"not directly in {FOLDER}")
      elif not match:
        self._skip(f"{FOLDER}/{name}", "no age at the start of its name")
      elif int(match["age"]) > MAX_AGE:
        self._skip(f"{FOLDER}/{name}", f"age above {MAX_AGE}")
      else:
        matches.append(match)
    if not matches:
      files.require(folder, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
      raise types.InputError(
        f"No picture in {folder} has an age at the start of its name. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
    return {"train": self._generate_examples(folder, matches)}

  def _generate_examples(
    self, folder: pathlib.Path, matches: Sequence[re.Match]
  ):
    for index, match in enumerate(matches):
      fields: str = match["fields"]
      gender, race, *_ = [*fields.split("_"), ""]
      yield (
        index,
        {
          "image": str(folder / match[0]),
          "file": f"{FOLDER}/{match[0]}",
          "age": int(match["age"]),
          "gender": GENDERS.get(gender, ""),
          "race": RACES.get(race, ""),
          "complete": bool(_COMPLETE.fullmatch(match[0])),
        },
      )
