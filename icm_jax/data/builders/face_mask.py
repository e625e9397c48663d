"""Face Mask Detection: faces with and without a mask, cut out of pictures."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import ClassVar
from xml.etree import ElementTree

import defusedxml
import defusedxml.ElementTree
import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data import pictures
from icm_jax.data.builders import base, files

# Added to a box on every side, as a share of its longer side.
MARGIN = 0.2
# Pixels of a box's shorter side; in smaller boxes no mask is recognisable.
MIN_SIDE = 16
CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Unusable(Exception):
  """A box or an annotation cannot be used; the text says why."""


class FaceMask(base.ImageBuilder):
  """Face Mask Detection, 853 pictures; each example is a square around a face.

  `MARGIN` and `MIN_SIDE`, which determine the squares, are fixed, so that
  prepared data of one version is always the same.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "face_mask"
  DESCRIPTION = (
    "4,072 faces on 853 pictures: with a mask, without one, or with one worn "
    "incorrectly. Each is cut out as a square around its box."
  )
  HOMEPAGE = "https://www.kaggle.com/datasets/andrewmvd/face-mask-detection"
  CITATION = """\
@misc{makeml2020mask,
  title={Mask Dataset},
  author={{Make ML}},
  url={https://makeml.app/datasets/mask},
  year={2020}
}
"""
  TERMS = (
    "Given as CC0 1.0, public domain, on the page of the data set. The "
    "pictures show real people: use them for research, not to identify anyone."
  )
  COLUMNS: ClassVar = {
    "file": tfds.features.Text(),
    "label": tfds.features.ClassLabel(names=list(CLASSES)),
    "condition": tfds.features.Text(),
    **dict.fromkeys(_CORNERS, np.int32),
  }
  ORIGINALS = ("images", "annotations")
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Put here the two folders of the original archive: "
    "images/maksssksksssN.png and annotations/maksssksksssN.xml."
  )

  def _split_generators(self, dl_manager):
    del dl_manager
    folders = [
      files.require(self._manual_dir / name, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
      for name in ("images", "annotations")
    ]
    return {"train": self._generate_examples(*folders)}

  def _generate_examples(self, images: pathlib.Path, annotations: pathlib.Path):
    pngs, xmls = _by_stem(images, ".png"), _by_stem(annotations, ".xml")
    number = 0
    for stem in sorted(pngs.keys() | xmls.keys()):
      if stem not in xmls:
        self._skip(f"images/{pngs[stem].name}", "no annotation")
      elif stem not in pngs:
        self._skip(f"annotations/{xmls[stem].name}", "no picture")
      else:
        for example in self._faces(pngs[stem], xmls[stem]):
          yield number, example
          number += 1
    if not number:
      raise types.InputError(
        f"No face in {self._manual_dir} can be used. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )

  def _faces(self, png: pathlib.Path, xml: pathlib.Path) -> Iterator[dict]:
    """Examples of one picture."""
    try:
      boxes = _read_boxes(xml)
    except _Unusable as error:
      self._skip(f"annotations/{xml.name}", str(error))
      return
    file = f"images/{png.name}"
    try:
      image = pictures.load(png.read_bytes(), max_pixels=pictures.MAX_PIXELS)
    except pictures.Unreadable as error:
      self._skip(file, str(error))
      return
    if image.mode not in ("RGB", "RGBA"):
      image = image.convert("RGB")  # PNG cannot store some other modes.
    for index, box in enumerate(boxes):
      name = f"{file}#{index}"
      try:
        condition = _condition(box)
        corners = _corners(box, image.size)
      except _Unusable as error:
        self._skip(name, str(error))
        continue
      yield {
        "image": files.png(image.crop(square(corners, image.size))),
        "file": name,
        "label": condition,
        "condition": condition,
        **dict(zip(_CORNERS, corners, strict=True)),
      }


def square(
  corners: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[int, int, int, int]:
  """The square to cut out for a box.

  Its side is the box's longer side plus `MARGIN` at both ends, at most the
  picture's shorter side. The square is moved into the picture if it leaves it.

  Args:
    corners: left, top, right and bottom of the box.
    size: width and height of the picture.

  Returns:
    Left, top, right, bottom.
  """
  left, top, right, bottom = corners
  longer = max(right - left, bottom - top)
  side = min(round(longer * (1 + 2 * MARGIN)), *size)
  x, y = (
    min(max((low + high - side) // 2, 0), length - side)
    for low, high, length in ((left, right, size[0]), (top, bottom, size[1]))
  )
  return x, y, x + side, y + side


def _by_stem(folder: pathlib.Path, suffix: str) -> dict[str, pathlib.Path]:
  return {
    path.stem: path
    for path in folder.iterdir()
    if path.suffix == suffix and not path.name.startswith(".")
  }


def _read_boxes(xml: pathlib.Path) -> list[ElementTree.Element]:
  try:
    root = defusedxml.ElementTree.fromstring(xml.read_bytes(), forbid_dtd=True)
  except defusedxml.DefusedXmlException as error:
    raise _Unusable("XML with a DTD or entities") from error
  except OSError as error:
    raise _Unusable("cannot be opened") from error
  # Unknown encodings raise LookupError or ValueError.
  except (ElementTree.ParseError, LookupError, ValueError) as error:
    raise _Unusable("malformed XML") from error
  boxes = root.findall("object")
  if not boxes:
    raise _Unusable("no box")
  return boxes


def _condition(box: ElementTree.Element) -> str:
  condition = box.findtext("name", "").strip()
  if condition not in CLASSES:
    raise _Unusable("unknown class")
  return condition


def _whole(text: str) -> int:
  """Reads a whole number; some programs write it as 20.0.

  Raises:
    ValueError: it is none.
  """
  match = re.fullmatch(r"\s*(-?\d+)(?:\.0*)?\s*", text, re.ASCII)
  return int(match[1] if match else text)


def _corners(
  box: ElementTree.Element, size: tuple[int, int]
) -> tuple[int, int, int, int]:
  try:
    left, top, right, bottom = (
      _whole(box.findtext(f"bndbox/{name}", "")) for name in _CORNERS
    )
  except ValueError as error:
    raise _Unusable("corners are not four whole numbers") from error
  if right <= left or bottom <= top:
    raise _Unusable("box of no area")
  if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
    raise _Unusable("box outside the image")
  if min(right - left, bottom - top) < MIN_SIDE:
    raise _Unusable(f"box smaller than {MIN_SIDE} pixels")
  return left, top, right, bottom
