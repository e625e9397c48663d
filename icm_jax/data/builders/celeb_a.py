"""CelebA: faces of celebrities, with 40 attributes and five landmarks."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import base, files

FOLDER = "img_align_celeba"
ZIP = "img_align_celeba.zip"
ATTRIBUTE_TABLE = "list_attr_celeba.txt"
PARTITION_TABLE = "list_eval_partition.txt"
PERSON_TABLE = "identity_CelebA.txt"
LANDMARK_TABLE = "list_landmarks_align_celeba.txt"
SPLITS = ("train", "validation", "test")
ATTRIBUTES = (
  "5_o_Clock_Shadow",
  "Arched_Eyebrows",
  "Attractive",
  "Bags_Under_Eyes",
  "Bald",
  "Bangs",
  "Big_Lips",
  "Big_Nose",
  "Black_Hair",
  "Blond_Hair",
  "Blurry",
  "Brown_Hair",
  "Bushy_Eyebrows",
  "Chubby",
  "Double_Chin",
  "Eyeglasses",
  "Goatee",
  "Gray_Hair",
  "Heavy_Makeup",
  "High_Cheekbones",
  "Male",
  "Mouth_Slightly_Open",
  "Mustache",
  "Narrow_Eyes",
  "No_Beard",
  "Oval_Face",
  "Pale_Skin",
  "Pointy_Nose",
  "Receding_Hairline",
  "Rosy_Cheeks",
  "Sideburns",
  "Smiling",
  "Straight_Hair",
  "Wavy_Hair",
  "Wearing_Earrings",
  "Wearing_Hat",
  "Wearing_Lipstick",
  "Wearing_Necklace",
  "Wearing_Necktie",
  "Young",
)
LANDMARKS = tuple(
  f"{part}_{axis}"
  for part in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
  for axis in "xy"
)
_IMAGE = re.compile(r"([0-9]{6})\.jpg")
_INTEGER = re.compile(r"-?[0-9]{1,9}")


class _Table(NamedTuple):
  """A table with a row of integers for each image.

  Attributes:
    row_N: row number of every image, or -1 if it has none.
    value_RC: the values.
  """

  row_N: np.ndarray
  value_RC: np.ndarray

  def of(self, number: int) -> list[int]:
    return self.value_RC[self.row_N[number]].tolist()


class CelebA(base.ImageBuilder):
  """CelebA, aligned and cropped: 202,599 faces, 178 wide and 218 high.

  Any subset of the images is enough, and tables may have more rows than there
  are images. Tables may be comma-separated files of the same names, and the
  folder of images may lie in one of its name, as Kaggle hands them out. Without
  the table of landmarks, landmarks are -1; without the table of people, nobody
  knows who is on two images, and each counts as a person of its own.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "celeb_a"
  DESCRIPTION = (
    "Aligned faces of 10,177 people, with 40 binary attributes and the "
    "positions of eyes, nose and corners of the mouth."
  )
  HOMEPAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
  CITATION = """\
@inproceedings{liu2015faceattributes,
  title={Deep Learning Face Attributes in the Wild},
  author={Liu, Ziwei and Luo, Ping and Wang, Xiaogang and Tang, Xiaoou},
  booktitle={International Conference on Computer Vision},
  year={2015}
}
"""
  TERMS = (
    "For non-commercial research only. The images are not the property of the "
    "authors (MMLAB, The Chinese University of Hong Kong). No portion may be "
    "copied, published or distributed further, except for copies for internal "
    "use at a single site within one organization."
  )
  COLUMNS: ClassVar = {
    "file": tfds.features.Text(),
    "person": tfds.features.Text(),
    **dict.fromkeys(ATTRIBUTES, np.bool_),
    **dict.fromkeys(LANDMARKS, np.int32),
  }
  ORIGINALS = (FOLDER, ZIP, "list_*", "identity_*")
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f"Put here {ZIP}, still zipped (or the folder {FOLDER} with NNNNNN.jpg, "
    f"which is read where there is no zip), {ATTRIBUTE_TABLE}, "
    f"{PARTITION_TABLE} and, for people, {PERSON_TABLE}, for landmarks, "
    f"{LANDMARK_TABLE}; tables may end in .csv."
  )

  def _split_generators(self, dl_manager):
    del dl_manager
    tables = self._tables()
    numbers = {split: [] for split in SPLITS}
    for number in self._numbers():
      without = [name for name, t in tables.items() if t.row_N[number] < 0]
      if without:
        self._skip(_file(number), f"no row in {without[0]}")
      else:
        (partition,) = tables[PARTITION_TABLE].of(number)
        numbers[SPLITS[partition]].append(number)
    if not any(numbers.values()):
      raise types.InputError(
        f"No image NNNNNN.jpg in {self._images()} has a row in every table. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
    return {
      split: self._generate_examples(some, tables)
      for split, some in numbers.items()
      if some
    }

  def _images(self) -> pathlib.Path:
    """The zip, or the folder if there is no zip."""
    zipped, folder = self._manual_dir / ZIP, self._folder(FOLDER)
    return folder if folder.is_dir() and not zipped.is_file() else zipped

  def _tables(self) -> dict[str, _Table]:
    """Reads all tables; those of people and landmarks may be missing."""
    paths = {}
    for name in (
      ATTRIBUTE_TABLE,
      PARTITION_TABLE,
      PERSON_TABLE,
      LANDMARK_TABLE,
    ):
      text = self._manual_dir / name
      separated = text.with_suffix(".csv")
      path = separated if separated.exists() and not text.exists() else text
      if name in (ATTRIBUTE_TABLE, PARTITION_TABLE):
        files.require(path, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
      if path.exists():
        paths[name] = path
    tables = {
      ATTRIBUTE_TABLE: _read_table(
        paths[ATTRIBUTE_TABLE], np.int8, names=ATTRIBUTES, allowed=("-1", "1")
      ),
      PARTITION_TABLE: _read_table(
        paths[PARTITION_TABLE], np.int8, allowed=("0", "1", "2")
      ),
    }
    if PERSON_TABLE in paths:
      tables[PERSON_TABLE] = _read_table(paths[PERSON_TABLE], np.int32)
    if LANDMARK_TABLE in paths:
      tables[LANDMARK_TABLE] = _read_table(
        paths[LANDMARK_TABLE], np.int32, names=LANDMARKS
      )
    return tables

  def _numbers(self) -> list[int]:
    """Numbers of the images in the zip or folder."""
    path = self._images()
    if path.is_dir():
      found = [
        picture.relative_to(path.parent).as_posix()
        for picture in self._pictures(path)
      ]
    else:
      files.require(path, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
      with files.open_zip(path) as archive:
        # A zip may contain a name twice.
        found = sorted(set(archive.namelist()))
    numbers = []
    for name in found:
      match = _IMAGE.fullmatch(name.removeprefix(f"{FOLDER}/"))
      if match and name.startswith(f"{FOLDER}/"):
        numbers.append(int(match[1]))
      elif not name.endswith("/"):
        self._skip(name, f"not {FOLDER}/NNNNNN.jpg")
    return numbers

  def _generate_examples(
    self, numbers: Sequence[int], tables: Mapping[str, _Table]
  ):
    path = self._images()
    index = 0
    with (
      files.open_zip(path)
      if path.is_file()
      else contextlib.nullcontext() as archive
    ):
      for number in numbers:
        file = _file(number)
        try:
          image = archive.read(file) if archive else str(path.parent / file)
        # Damaged zips raise almost anything.
        except Exception:
          self._skip(file, "cannot be unpacked")
          continue
        person = f"unknown {number:06}"
        if PERSON_TABLE in tables:
          person = str(*tables[PERSON_TABLE].of(number))
        attributes = tables[ATTRIBUTE_TABLE].of(number)
        landmarks = [-1] * len(LANDMARKS)
        if LANDMARK_TABLE in tables:
          landmarks = tables[LANDMARK_TABLE].of(number)
        yield (
          index,
          {
            "image": image,
            "file": file,
            "person": person,
            **{
              name: value == 1
              for name, value in zip(ATTRIBUTES, attributes, strict=True)
            },
            **dict(zip(LANDMARKS, landmarks, strict=True)),
          },
        )
        index += 1
    if not index:
      raise types.InputError(
        f"None of {len(numbers)} images of a split can be unpacked from "
        f"{path}. Replace it by the original zip."
      )


def _file(number: int) -> str:
  return f"{FOLDER}/{number:06}.jpg"


def _read_table(
  path: pathlib.Path,
  dtype: type[np.integer],
  *,
  names: Sequence[str] = (),
  allowed: Sequence[str] = (),
) -> _Table:
  """Reads a table of integers.

  Args:
    path: file of the table.
    dtype: type of its values.
    names: names of its columns, which the second line must repeat after the
      number of rows in the first line. If empty, the table has one column and
      no such lines.
    allowed: values that the table may have; if empty, all integers.

  Raises:
    InputError: the table is malformed.
  """
  lines = files.read_lines(path)
  first = 0
  if path.suffix == ".csv":
    lines = [line.replace(",", " ") for line in lines]
    header = " ".join([*lines, ""][0].split()[1:])
    _check_names(path, 0, header, names or ("partition",))
    first = 1
  elif names:
    _check_header(path, lines, names)
    first = 2
  row_N = np.full(1_000_000, -1, np.int32)
  value_RC = np.empty((len(lines) - first, len(names) or 1), dtype)
  for row, line in enumerate(lines[first:]):
    try:
      number, values = _parse(line, value_RC.shape[1], allowed)
      if row_N[number] >= 0:
        raise ValueError(f"expected a new image, found {number:06}.jpg again")
    except ValueError as error:
      raise _malformed(path, first + row, error) from error
    row_N[number] = row
    value_RC[row] = values
  return _Table(row_N, value_RC)


def _parse(
  line: str, num_values: int, allowed: Sequence[str]
) -> tuple[int, list[int]]:
  """The number of an image and its values.

  Raises:
    ValueError: the line is malformed; the text says what was expected, and what
      was found.
  """
  image, *texts = line.split() or [""]
  match = _IMAGE.fullmatch(image)
  if not match:
    raise ValueError(f"expected NNNNNN.jpg, found {image[:40]!r}")
  if len(texts) != num_values:
    raise ValueError(f"expected {num_values} values, found {len(texts)}")
  for text in texts:
    if text not in allowed if allowed else not _INTEGER.fullmatch(text):
      expected = " or ".join(allowed) or "an integer"
      raise ValueError(f"expected {expected}, found {text[:40]!r}")
  return int(match[1]), [int(text) for text in texts]


def _check_header(
  path: pathlib.Path, lines: Sequence[str], names: Sequence[str]
) -> None:
  """Checks the first two lines: the number of rows, the names of columns."""
  count, header = [*lines, "", ""][:2]
  if not _INTEGER.fullmatch(count.strip()):
    raise _malformed(
      path, 0, f"expected the number of rows, found {count[:40]!r}"
    )
  _check_names(path, 1, header, names)
  if int(count) != len(lines) - 2:
    raise types.InputError(
      f"{path}: its first line promises {int(count)} rows, but "
      f"{len(lines) - 2} follow. Replace it by the original file, or correct "
      "the first line."
    )


def _check_names(
  path: pathlib.Path, line: int, header: str, names: Sequence[str]
) -> None:
  """Checks the names of columns."""
  for found, name in itertools.zip_longest(header.split(), names):
    if found != name:
      raise _malformed(
        path,
        line,
        f"expected {name or 'no more names'}, found "
        f"{repr(found[:40]) if found else 'nothing'}",
      )


def _malformed(
  path: pathlib.Path, line: int, fault: str | ValueError
) -> types.InputError:
  return types.InputError(
    f"{path}, line {line + 1}: {fault}. Replace it by the original file."
  )
