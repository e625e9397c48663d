"""Records of undecoded pictures, from prepared data sets and from folders."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data import decoded, folders, pictures
from icm_jax.data.builders import files


class TfdsRecords:
  """Records of all splits of a prepared tfds data set, one after another."""

  def __init__(self, builder: tfds.core.DatasetBuilder):
    self._builder = builder
    self._splits = {
      name: info.num_examples for name, info in builder.info.splits.items()
    }
    self._features = _scalars(builder.info.features)

  def __len__(self) -> int:
    return sum(self._splits.values())

  def fingerprint(self) -> Any:
    info = self._builder.info
    return [
      info.full_name,
      [[k, v.num_bytes, v.shard_lengths] for k, v in info.splits.items()],
    ]

  @functools.cached_property
  def _opened(self) -> dict[str, Any]:
    skip = {"image": tfds.decode.SkipDecoding()}
    return {
      split: self._builder.as_data_source(split=split, decoders=skip)
      for split in self._splits
    }

  def read(self, numbers: range) -> list[decoded.Record]:
    records, start = [], 0
    for split, size in self._splits.items():
      inside = range(
        max(numbers.start, start) - start,
        min(numbers.stop, start + size) - start,
      )
      if inside:
        examples = self._opened[split].__getitems__(list(inside))
        records += [
          self._record(split, number, example)
          for number, example in zip(inside, examples, strict=True)
        ]
      start += size
    return records

  def _record(self, split, number, example) -> decoded.Record:
    columns = {"split": split}
    for name, path in self._features.items():
      value = functools.reduce(lambda part, key: part[key], path, example)
      columns[name] = value.decode() if isinstance(value, bytes) else value
    name = columns.get("file") or f"{split}[{number}]"
    return decoded.Record(name, example["image"], columns)


def _scalars(features, path=()) -> dict[str, tuple[str, ...]]:
  """Names and paths of a data set's features that are numbers or texts."""
  found: dict[str, tuple[str, ...]] = {}
  for name, feature in features.items():
    if isinstance(feature, tfds.features.FeaturesDict):
      found |= _scalars(feature, (*path, name))
    elif feature.shape == () and not isinstance(
      feature, (tfds.features.Image, tfds.features.Sequence)
    ):
      found[name] = (*path, name)
  return found


class FolderRecords:
  """Records of the pictures in a user's folders.

  Attributes:
    skipped: names of what is left out without being read, and the reasons.
  """

  def __init__(
    self,
    sides: Mapping[str, pathlib.Path],
    max_images: int,
    *,
    grouped: str = "",
  ):
    """Finds the pictures without reading any.

    Args:
      sides: folders by the name of their role.
      max_images: more pictures are refused.
      grouped: name of the side whose sub-folders are groups, if it has any;
        pictures beside them belong to none, and are left out.

    Raises:
      InputError: a folder is missing, holds no picture or too many, or cannot
        be read.
    """
    self._files: list[tuple[str, pathlib.Path, pathlib.Path]] = []
    self.skipped: list[tuple[str, str]] = []
    for side, folder in sides.items():
      if not folder.is_dir():
        raise types.InputError(
          f"There is no folder {folder}. If pictures have moved, name their "
          "new place with --config.data.name."
        )
      paths, skipped = folders.find(folder)
      if side == grouped and any(_top(folder, path) for path in paths):
        beside = [path for path in paths if not _top(folder, path)]
        reason = "beside the sub-folders, which are the groups"
        skipped += [(path, reason) for path in beside]
        paths = [path for path in paths if _top(folder, path)]
      self.skipped += [(_name(folder, p), reason) for p, reason in skipped]
      if not paths:
        left_out = ""
        if skipped:
          left_out = f" {len(skipped)} left out, the first {skipped[0][0]}: "
          left_out += f"{skipped[0][1]}."
        raise types.InputError(
          f"The folder {folder} holds no picture.{left_out} Known suffixes: "
          f"{', '.join(sorted(folders.suffixes()))}."
        )
      self._files += [(side, folder, path) for path in paths]
    if len(self._files) > max_images:
      raise types.InputError(
        f"There are {len(self._files)} pictures, and at most {max_images} are "
        "allowed; choose a smaller folder, or raise --config.data.max_images."
      )

  def __len__(self) -> int:
    return len(self._files)

  def fingerprint(self) -> Any:
    return [[side, str(path), *_stat(path)] for side, _, path in self._files]

  def groups(self, side: str) -> list[str]:
    """Names of the top sub-folders of a side that contain pictures."""
    return sorted({_top(f, p) for s, f, p in self._files if s == side} - {""})

  def read(self, numbers: range) -> list[decoded.Record]:
    return [self._record(*self._files[number]) for number in numbers]

  def _record(self, side, folder, path) -> decoded.Record:
    try:
      data = path.read_bytes()
    except OSError as error:
      data = pictures.Unreadable(f"cannot be read ({error.strerror})")
    file = _name(folder, path)
    columns = {
      "split": "all",
      "file": file,
      "side": side,
      "folder": _top(folder, path),
    }
    return decoded.Record(file, data, columns)


def _name(folder: pathlib.Path, path: pathlib.Path) -> str:
  """The path of a file below a folder, as printable text."""
  return files.printable(path.relative_to(folder).as_posix())


def _stat(path: pathlib.Path) -> tuple[int, ...]:
  """What changes if a file is written again; empty for one that is gone."""
  try:
    stat = path.stat()
  except OSError:
    return ()
  return stat.st_size, stat.st_mtime_ns, stat.st_mode


def _top(folder: pathlib.Path, path: pathlib.Path) -> str:
  """The top sub-folder of a folder that contains a file, or ""."""
  inside = path.relative_to(folder)
  return files.printable(inside.parts[0]) if len(inside.parts) > 1 else ""
