"""Omniglot: handwritten characters of many alphabets."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import base, files

ZIPS = {
  "background": "images_background.zip",
  "evaluation": "images_evaluation.zip",
  "small1": "images_background_small1.zip",
  "small2": "images_background_small2.zip",
}
SHA256 = {
  "images_background.zip": (
    "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"
  ),
  "images_evaluation.zip": (
    "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"
  ),
  "images_background_small1.zip": (
    "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"
  ),
  "images_background_small2.zip": (
    "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f"
  ),
}
_MEMBER = re.compile(
  r"(?P<zip>[^/]+)/(?P<alphabet>[^/]+)/(?P<character>character\d+)/"
  r"(?P<number>\d{1,9})_(?P<drawer>\d+)\.png",
  re.ASCII,
)


class Omniglot(base.ImageBuilder):
  """Omniglot, 32,460 characters drawn by 20 people each, 105x105.

  There is a split for every zip in the folder. The small sets are parts of
  "background", and share two alphabets: the same drawing has the same `drawing`
  everywhere. Ink is 0. Files have one bit per pixel, so Pillow alone returns
  paper as 1, not as 255.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "omniglot"
  DESCRIPTION = "Handwritten characters of 50 alphabets, 20 drawings of each."
  HOMEPAGE = "https://github.com/brendenlake/omniglot"
  CITATION = """\
@article{lake2015human,
  title={Human-level concept learning through probabilistic program induction},
  author={Lake, Brenden M. and Salakhutdinov, Ruslan and
    Tenenbaum, Joshua B.},
  journal={Science},
  volume={350}, number={6266}, pages={1332--1338}, year={2015}
}
"""
  TERMS = "(c) 2015 Brenden Lake, MIT licence."
  IMAGE_SHAPE = (105, 105, 1)
  COLUMNS: ClassVar = {
    "file": tfds.features.Text(),
    "alphabet": tfds.features.Text(),
    "character": tfds.features.Text(),
    "drawing": tfds.features.Text(),
    "person": tfds.features.Text(),
    "number": np.int32,
  }
  ORIGINALS = tuple(ZIPS.values())
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f"Put here one or more of {', '.join(ZIPS.values())}, still zipped."
  )

  def _split_generators(self, dl_manager):
    del dl_manager
    present = {
      split: self._manual_dir / name
      for split, name in ZIPS.items()
      if (self._manual_dir / name).is_file()
    }
    if not present:
      raise types.InputError(
        f"No zip of Omniglot in {self._manual_dir}. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
    for path in present.values():
      files.check(path, SHA256[path.name])
    members = {split: self._members(path) for split, path in present.items()}
    if not any(members.values()):
      raise types.InputError(
        f"No member of {', '.join(map(str, present.values()))} is named "
        "<zip>/<alphabet>/characterNN/<number>_<drawer>.png. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
    return {
      split: self._generate_examples(present[split], matches)
      for split, matches in members.items()
      if matches
    }

  def _members(self, path: pathlib.Path) -> list[re.Match]:
    """Parsed names of the images in a zip."""
    with files.open_zip(path) as archive:
      names = sorted(archive.namelist())
    matches = []
    for name in names:
      match = _MEMBER.fullmatch(name)
      if match and match["zip"] == path.stem:
        matches.append(match)
      elif not name.endswith("/"):
        self._skip(name, "not <zip>/<alphabet>/characterNN/<number>_<drawer>")
    return matches

  def _generate_examples(self, path: pathlib.Path, matches: Sequence[re.Match]):
    index = 0
    with files.open_zip(path) as archive:
      for match in matches:
        try:
          image = archive.read(match[0])
        # Damaged zips raise almost anything.
        except Exception:
          self._skip(match[0], "cannot be unpacked")
          continue
        yield (
          index,
          {
            "image": image,
            "file": match[0],
            "alphabet": match["alphabet"],
            "character": f"{match['alphabet']}/{match['character']}",
            "drawing": match[0].removeprefix(f"{match['zip']}/"),
            "person": match["drawer"],
            "number": int(match["number"]),
          },
        )
        index += 1
    if not index:
      raise types.InputError(
        f"No image of {path} can be unpacked. Replace it by the original zip."
      )
