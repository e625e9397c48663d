"""Flickr-Faces-HQ, at any of its resolutions."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import base, files

TABLE = "ffhq-dataset-v2.json"
_SPLITS = {"training": "train", "validation": "validation"}
_NAME = re.compile(r"(?P<thousand>\d\d000)/(?P<number>\d{5})\.png", re.ASCII)


class Ffhq(base.ImageBuilder):
  """Flickr-Faces-HQ, 70,000 aligned faces.

  With the table, the splits are "train" (60,000) and "validation" (10,000), and
  every example has its author and licence. Without it, every example is in
  "train".
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "ffhq"
  DESCRIPTION = "Aligned faces from photographs on Flickr."
  HOMEPAGE = "https://github.com/NVlabs/ffhq-dataset"
  CITATION = """\
@inproceedings{karras2019style,
  title={A style-based generator architecture for generative adversarial
    networks},
  author={Karras, Tero and Laine, Samuli and Aila, Timo},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages={4401--4410}, year={2019}
}
"""
  TERMS = (
    "The data set is CC BY-NC-SA 4.0 (NVIDIA). Each photograph is under its "
    "author's CC BY 2.0, CC BY-NC 2.0, Public Domain Mark, CC0 or U.S. "
    "Government Works: non-commercial use and redistribution are allowed, with "
    "credit and a note of changes."
  )
  COLUMNS: ClassVar = {
    "file": tfds.features.Text(),
    "number": np.int32,
    "licence": tfds.features.Text(),
    "author": tfds.features.Text(),
  }
  ORIGINALS = ("images*", "thumbnails*", TABLE)
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Put here one folder of images, such as images1024x1024, images256x256 or "
    "thumbnails128x128, with the files NN000/NNNNN.png in it, and, for splits, "
    f"authors and licences, {TABLE}."
  )

  def _split_generators(self, dl_manager):
    del dl_manager
    top = self._top_folder()
    numbers = {}
    for path in self._pictures(top):
      match = _NAME.fullmatch(path.relative_to(top).as_posix())
      if not match:
        self._skip(self._relative(path), "not NN000/NNNNN.png")
      elif match["number"][:2] != match["thousand"][:2]:
        self._skip(self._relative(path), "not in the folder of its thousand")
      else:
        numbers[path] = int(match["number"])
    table = self._manual_dir / TABLE
    if table.is_file():
      rows = _read_table(table)
      split_of = {path: self._split(path, rows) for path in numbers}
    else:
      rows = {}
      split_of = dict.fromkeys(numbers, "train")
    paths = {
      split: [path for path in numbers if split_of[path] == split]
      for split in ("train", "validation")
    }
    if not any(paths.values()):
      raise types.InputError(
        f"No usable image in {top}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
    return {
      split: self._generate_examples(some, rows)
      for split, some in paths.items()
      if some
    }

  def _top_folder(self) -> pathlib.Path:
    found = [
      path
      for path in sorted(self._manual_dir.glob("*"))
      if path.is_dir() and path.name.startswith(("images", "thumbnails"))
    ]
    if len(found) > 1:
      raise types.InputError(
        f"Expected one folder of images in {self._manual_dir}, found "
        f"{', '.join(path.name for path in found)}. Leave only the one to use."
      )
    if not found:
      raise types.InputError(
        f"No folder images* or thumbnails* in {self._manual_dir}. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
    return files.require(found[0], self.MANUAL_DOWNLOAD_INSTRUCTIONS)

  def _relative(self, path: pathlib.Path) -> str:
    return path.relative_to(self._manual_dir).as_posix()

  def _split(
    self, path: pathlib.Path, rows: Mapping[str, Mapping[str, Any]]
  ) -> str:
    """The split of an image by its row; "" if the image cannot be used."""
    row = rows.get(str(int(path.stem)))
    if row is None:
      self._skip(self._relative(path), f"not in {TABLE}")
      return ""
    split = _SPLITS.get(str(row.get("category")), "")
    if not split:
      self._skip(self._relative(path), f"no known category in {TABLE}")
    return split

  def _generate_examples(
    self,
    paths: Sequence[pathlib.Path],
    rows: Mapping[str, Mapping[str, Any]],
  ):
    for index, path in enumerate(paths):
      number = int(path.stem)
      metadata = rows.get(str(number), {}).get("metadata")
      yield (
        index,
        {
          "image": str(path),
          "file": self._relative(path),
          "number": number,
          "licence": _text(metadata, "license"),
          "author": _text(metadata, "author"),
        },
      )


def _read_table(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Rows of the table by image number."""
  try:
    # Lists are dropped: they are landmarks, and would need more than a gigabyte
    # for all images.
    rows = json.loads(
      path.read_bytes(),
      object_pairs_hook=lambda pairs: {
        key: value for key, value in pairs if not isinstance(value, list)
      },
    )
  except (ValueError, RecursionError) as error:
    raise types.InputError(
      f"{path} is not JSON ({error}). Replace it by the original file, or "
      "remove it to do without."
    ) from error
  if not isinstance(rows, dict) or not all(
    isinstance(row, dict) for row in rows.values()
  ):
    raise types.InputError(
      f"{path} must be an object of objects, keyed by image number. Replace it "
      "by the original file, or remove it to do without."
    )
  return rows


def _text(metadata: Any, key: str) -> str:
  """A text of an image's metadata; "" if there is none."""
  value = metadata.get(key) if isinstance(metadata, dict) else None
  if not isinstance(value, str):
    return ""
  # JSON can escape surrogate halves, which no encoding can store.
  return value.encode("utf-8", "replace").decode()
