"""Labeled Faces in the Wild, aligned by deep funneling."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import base, files

FOLDER = "lfw-deepfunneled"
PAIRS = "pairs.txt"
_NAME = re.compile(
  r"(?P<person>[\w.'-]+)/(?P=person)_(?P<number>[0-9]{4})\.jpg"
)
_COUNT = re.compile(r"[1-9][0-9]{0,8}")


class Lfw(base.ImageBuilder):
  """Labeled Faces in the Wild, 13,233 photographs of 5,749 people, 250x250.

  If the data set's list of pairs for face verification is in the folder, the
  pairs are in `info.metadata["pairs"]`: first person and number, second person
  and number. They may name missing pictures.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "lfw"
  DESCRIPTION = "News photographs of 5,749 people, aligned by deep funneling."
  HOMEPAGE = "https://vis-www.cs.umass.edu/lfw/"
  CITATION = """\
@inproceedings{huang2012learning,
  title={Learning to Align from Scratch},
  author={Huang, Gary B. and Mattar, Marwan and Lee, Honglak and
    Learned-Miller, Erik},
  booktitle={Advances in Neural Information Processing Systems},
  year={2012}
}
@techreport{huang2007labeled,
  title={Labeled Faces in the Wild: A Database for Studying Face Recognition in
    Unconstrained Environments},
  author={Huang, Gary B. and Ramesh, Manu and Berg, Tamara and
    Learned-Miller, Erik},
  institution={University of Massachusetts, Amherst},
  number={07-49}, year={2007}
}
"""
  TERMS = (
    "No licence is stated: a public benchmark of news photographs (University "
    "of Massachusetts, Amherst). Its authors ask that results not be used to "
    "claim fitness for any commercial purpose, and that the paper on deep "
    "funneling be cited."
  )
  COLUMNS: ClassVar = {
    "file": tfds.features.Text(),
    "person": tfds.features.Text(),
    "number": np.int32,
  }
  ORIGINALS = (FOLDER, PAIRS)
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f"Put here the folder {FOLDER} with <Name>/<Name>_NNNN.jpg and, for "
    f"pairs, {PAIRS}."
  )

  def _split_generators(self, dl_manager):
    del dl_manager
    folder = self._folder(FOLDER)
    matches = []
    for path in self._pictures(folder) if folder.is_dir() else ():
      name = path.relative_to(folder).as_posix()
      match = _NAME.fullmatch(name)
      if match:
        matches.append(match)
      else:
        self._skip(f"{FOLDER}/{name}", "not <Name>/<Name>_NNNN.jpg")
    if not matches:
      files.require(folder, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
      raise types.InputError(
        f"No picture in {folder} is named <Name>/<Name>_NNNN.jpg. "
        f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
      )
    pairs = self._manual_dir / PAIRS
    if pairs.exists():
      self.info.metadata["pairs"] = read_pairs(pairs)
    return {"train": self._generate_examples(folder, matches)}

  def _generate_examples(
    self, folder: pathlib.Path, matches: Sequence[re.Match]
  ):
    for index, match in enumerate(matches):
      yield (
        index,
        {
          "image": str(folder / match[0]),
          "file": f"{FOLDER}/{match[0]}",
          "person": match["person"],
          "number": int(match["number"]),
        },
      )


def read_pairs(path: pathlib.Path) -> list[list[str | int]]:
  """Reads the list of pairs.

  The first line has the number of sets and the number of pairs. A set has that
  many pairs of one person, then as many pairs of two people.

  Returns:
    First person and number, second person and number, in the order of the file.

  Raises:
    InputError: the file is malformed.
  """
  header, *lines = files.read_lines(path) or [""]
  counts = header.split()
  if len(counts) != 2 or not all(map(_COUNT.fullmatch, counts)):
    raise _malformed(
      path, 1, "the numbers of sets and of pairs (10 and 300)", header
    )
  sets, size = map(int, counts)
  if len(lines) != sets * 2 * size:
    raise types.InputError(
      f"{path}: line 1 promises {sets} sets of {size} + {size} pairs, which is "
      f"{sets * 2 * size} lines, but {len(lines)} follow. Replace it by the "
      "original file, or remove it to do without."
    )
  pairs: list[list[str | int]] = []
  for index, line in enumerate(lines):
    same = index % (2 * size) < size
    match line.split():
      case [person, first, second] if same:
        pair = [person, first, person, second]
      case [person, first, other, second] if not same and person != other:
        pair = [person, first, other, second]
      case _:
        pair = []
    if not pair or not all(map(_COUNT.fullmatch, pair[1::2])):
      raise _malformed(
        path,
        index + 2,
        "a name and two numbers" if same else "two names, a number after each",
        line,
      )
    pairs.append([pair[0], int(pair[1]), pair[2], int(pair[3])])
  return pairs


def _malformed(
  path: pathlib.Path, line: int, expected: str, found: str
) -> types.InputError:
  return types.InputError(
    f"{path}, line {line}: expected {expected}, found {found[:80]!r}. Replace "
    "it by the original file, or remove it to do without."
  )
