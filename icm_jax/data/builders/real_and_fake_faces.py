"""Real and Fake Face Detection: photographs, and faces composed by hand."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import base, files

PARTS = ("left_eye", "right_eye", "nose", "mouth")
# Rules of groups. Few fakes have a single part of another person.
GROUPS = {
  **{part: f"{part}=1" for part in PARTS},
  "eyes": "fake=1&nose=0&mouth=0",
  "nose_and_mouth": "fake=1&left_eye=0&right_eye=0",
  "all_parts": "&".join(f"{part}=1" for part in PARTS),
}
_REAL = re.compile(r"real_\d+\.jpg")
_FAKE = re.compile(r"(easy|mid|hard)_\d+_([01]{4})\.jpg")


class RealAndFakeFaces(base.ImageBuilder):
  """Real and Fake Face Detection, 1,081 real and 960 fake faces, 600x600.

  In a fake, human editors replaced eyes, nose or mouth by those of other
  people. Columns say which parts, and how difficult the fake is to recognise.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "real_and_fake_faces"
  DESCRIPTION = (
    "2,041 faces, of which 960 have eyes, nose or mouth of other people."
  )
  HOMEPAGE = (
    "https://www.kaggle.com/datasets/ciplab/real-and-fake-face-detection"
  )
  CITATION = """\
@misc{ciplab2019real,
  title={Real and Fake Face Detection},
  author={{Computational Intelligence and Photography Lab, Yonsei University}},
  url={https://www.kaggle.com/datasets/ciplab/real-and-fake-face-detection},
  year={2019}
}
"""
  TERMS = (
    "Given as Creative Commons Attribution-NonCommercial-ShareAlike 4.0 on the "
    "page of the data set; CIPLAB, Yonsei University. The pictures show real "
    "people: use them for research, not to identify anyone."
  )
  COLUMNS: ClassVar = {
    "file": tfds.features.Text(),
    "fake": np.bool_,
    "difficulty": tfds.features.Text(),
    **dict.fromkeys(PARTS, np.bool_),
    "label": tfds.features.ClassLabel(names=["real", "fake"]),
  }
  ORIGINALS = ("training_real", "training_fake")
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Put here one or both folders of the original archive: "
    "training_real/real_NNNNN.jpg and training_fake/LEVEL_N_ABCD.jpg, where "
    "LEVEL is easy, mid or hard and A to D are 0 or 1."
  )

  def _split_generators(self, dl_manager):
    del dl_manager
    folders = [
      self._manual_dir / name for name in ("training_real", "training_fake")
    ]
    present = [folder for folder in folders if folder.is_dir()]
    if not present:
      files.require(folders[0], self.MANUAL_DOWNLOAD_INSTRUCTIONS)
    return {"train": self._generate_examples(present)}

  def _generate_examples(self, folders: Sequence[pathlib.Path]):
    number = 0
    for folder in folders:
      for path in self._pictures(folder):
        file = path.relative_to(self._manual_dir).as_posix()
        level, bits = "", "0000"
        if folder.name == "training_fake":
          match = _FAKE.fullmatch(path.name)
          if match:
            level, bits = match.groups()
        else:
          match = _REAL.fullmatch(path.name)
        if not match:
          self._skip(file, "unexpected file name")
          continue
        if level and bits == "0000":
          self._skip(file, "a fake without a replaced part")
          continue
        yield (
          number,
          {
            "image": str(path),
            "file": file,
            "fake": bool(level),
            "difficulty": level,
            **{part: bit == "1" for part, bit in zip(PARTS, bits, strict=True)},
            "label": int(bool(level)),
          },
        )
        number += 1
    if not number:
      raise types.InputError(
        f"No picture in {self._manual_dir} can be used. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
