"""Tufts Face Database: the same people in seven modalities."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data import folders
from icm_jax.data.builders import base, files

# Modalities by the token in the names of folders.
MODALITIES = {
  "RGB": "visible",
  "IR": "thermal",
  "NIR": "near_infrared",
  "CS": "sketch",
  "LYT": "lytro",
  "LYTRO": "lytro",
  "VIDEO": "video",
  "3D": "3d",
}
EXPRESSIONS = {
  1: "neutral",
  2: "smile",
  3: "eyes_closed",
  4: "shocked",
  5: "sunglasses",
}
# Longer numbers, such as dates, are no set or scene.
_SET = re.compile(r"SET_?(\d{1,3})(?!\d)")
_LAST_NUMBER = re.compile(r"(?<!\d)(\d{1,3})$")


class TuftsFaces(base.ImageBuilder):
  """Tufts Face Database, over 10,000 pictures of 113 people.

  The modalities are visible light, thermal, near infrared, computerised sketch,
  Lytro camera, video and 3D. Pictures in folders with E in the name show five
  expressions, those with A show the head from several sides.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "tufts_faces"
  DESCRIPTION = "Over 10,000 pictures of 113 people in seven modalities."
  HOMEPAGE = "http://tdface.ece.tufts.edu/"
  CITATION = """\
@article{panetta2020comprehensive,
  title={A Comprehensive Database for Benchmarking Imaging Systems},
  author={Panetta, Karen and Wan, Qianwen and Agaian, Sos and Rajeev, Srijith
    and Kamath, Shreyas and Rajendran, Rahul and Rao, Shishir Paramathma and
    Kaszowska, Aleksandra and Taylor, Holly A. and Samani, Arash and Yuan, Xin},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume={42}, number={3}, pages={509--520}, year={2020}
}
"""
  TERMS = (
    "Tufts University grants access on request and gives no permission to "
    "reproduce the database or to post it on any webpage or other storage. "
    "Neither the pictures nor the data prepared from them may be passed on. "
    "They show real people: use them for research, not to identify anyone."
  )
  COLUMNS: ClassVar = {
    "file": tfds.features.Text(),
    "person": tfds.features.Text(),
    "modality": tfds.features.Text(),
    "expression": tfds.features.Text(),
    "pose": np.int32,
    "set": np.int32,
  }
  ORIGINALS = ("TD*",)
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Put here the folders of the unpacked original archives, at least one: "
    "TD_RGB_E_Set1/PERSON/TD_RGB_E_1.jpg, where PERSON is a number, and in the "
    "same way TD_RGB_A, TD_IR_E, TD_IR_A, TD_NIR_A, TD_CS, TD_LYT_A, TD_VIDEO "
    "and TD_3D."
  )

  def _split_generators(self, dl_manager):
    del dl_manager
    files.require(self._manual_dir, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    number = 0
    for folder in sorted(self._manual_dir.iterdir()):
      if folder.name.startswith("."):
        continue
      modality = _modality(folder.name)
      if not folder.is_dir():
        self._skip(folder.name, "not in a folder of the data set")
      elif not modality:
        self._skip(folder.name, "unknown folder")
      else:
        for columns in self._examples_of(folder):
          yield number, {**columns, "modality": modality}
          number += 1
    if not number:
      raise types.InputError(
        f"No picture in {self._manual_dir} can be used. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )

  def _examples_of(self, folder: pathlib.Path) -> Iterator[dict]:
    """Examples of a folder of one modality, without their modality."""
    found = folders.find(folder).paths
    for path in _others(folder, found):
      self._skip(path.relative_to(self._manual_dir).as_posix(), "not a picture")
    series = _SET.search(folder.name.upper())
    for path in found:
      inside = path.relative_to(folder).parts[:-1]
      person = next((name for name in inside if name.isdecimal()), None)
      file = path.relative_to(self._manual_dir).as_posix()
      if person is None:
        self._skip(file, "not in a folder of a person")
        continue
      expression, pose = _scene(folder.name, path.stem)
      yield {
        "image": str(path),
        "file": file,
        # Folders of the same person may differ in leading zeros.
        "person": str(int(person)),
        "expression": expression,
        "pose": pose,
        "set": int(series[1]) if series else -1,
      }


def _tokens(name: str) -> list[str]:
  return re.split(r"[\W_]+", name.upper())


def _modality(folder: str) -> str:
  """The modality in a folder's name, or ""."""
  first, *rest = _tokens(folder)
  known = [MODALITIES[token] for token in rest if token in MODALITIES]
  return known[0] if first == "TD" and known else ""


def _scene(folder: str, stem: str) -> tuple[str, int]:
  """The expression of a picture, or ""; and its pose, or -1.

  The last number of the name is an expression after E, a pose after A.
  """
  kind = next(
    (token for token in _tokens(folder) + _tokens(stem) if token in ("A", "E")),
    "",
  )
  match = _LAST_NUMBER.search(stem)
  number = int(match[1]) if match else -1
  if kind == "E":
    return EXPRESSIONS.get(number, ""), -1
  return "", number if kind == "A" else -1


def _others(
  folder: pathlib.Path, found: Sequence[pathlib.Path]
) -> list[pathlib.Path]:
  """Files below a folder that are no pictures, except hidden ones."""
  known = set(found)
  return sorted(
    path
    for path in folder.rglob("*")
    if path not in known
    and path.is_file()
    and not any(p.startswith(".") for p in path.relative_to(folder).parts)
  )
