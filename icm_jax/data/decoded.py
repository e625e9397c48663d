"""Pictures that are decoded once, to one uint8 array on disk."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import types as types_lib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple, Protocol

import numpy as np

from icm_jax import types
from icm_jax.data import pictures

# Number of pictures that are read, decoded and written together.
_CHUNK = 512
# Most pictures of a user whose hashes a run stores one by one.
_MOST_FILES = 2_000
# Part of every key: raise it when decoding changes, so that arrays of the old
# format are not found.
_FORMAT = 3
_STAGED = ".staged-"
# Folders that a killed process leaves: ours, and those of tfds.
_UNFINISHED = (f"{_STAGED}*", "incomplete.*")

Progress = Callable[[str, int, int], None]


class Images(NamedTuple):
  """Pictures and their metadata.

  Attributes:
    image_NHWC: uint8, mapped from disk, read-only.
    columns: metadata, [N] arrays by name: int32, bool or text.
    digests: number of images and a hash of their pixels and metadata, for
      people, by split, or by side of a user's two folders; `files`, hashes of
      the pixels of a user's pictures by side and file, if these are not too
      many. Empty for images that were not decoded from files.
  """

  image_NHWC: np.ndarray
  columns: Mapping[str, np.ndarray]
  digests: Mapping[str, Any] = types_lib.MappingProxyType({})

  @property
  def label_N(self) -> np.ndarray | None:
    """Classes, int32 in [0, K); None if the data set has none."""
    return self.columns.get("label")


class Record(NamedTuple):
  """A picture before it is decoded.

  Attributes:
    name: name for people, such as that of the file; need not be unique.
    data: the encoded file, or the reason why it cannot be read.
    columns: one scalar for every column.
  """

  name: str
  data: bytes | pictures.Unreadable
  columns: Mapping[str, Any]


class Records(Protocol):
  """Pictures that can be read in any order."""

  def __len__(self) -> int: ...

  def fingerprint(self) -> Any:
    """A value that identifies the content, of types that JSON can hold."""

  def read(self, numbers: range) -> Sequence[Record]:
    """Reads the records of the given numbers."""


def decode(
  records: Records,
  view: pictures.View,
  folder: pathlib.Path,
  *,
  progress: Progress,
) -> tuple[Images, list[tuple[str, str]]]:
  """Decodes records, or opens the arrays that an earlier call decoded.

  The arrays are in a sub-folder of `folder`, which is named by a hash of the
  records' fingerprint and the view. The sub-folder is written as a whole or not
  at all; memory holds a few hundred pictures at a time.

  Args:
    records: pictures to decode.
    view: crop, size and channels of every decoded picture.
    folder: folder of all decoded arrays.
    progress: called with the name of the task, the number of pictures that are
      done, and their total.

  Returns:
    The images; and names and reasons of the pictures that were left out.

  Raises:
    InputError: no picture can be used.
    OSError: the arrays cannot be written; nothing is left behind.
  """
  key = json.dumps([_FORMAT, records.fingerprint(), view], sort_keys=True)
  target = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
  if not target.is_dir():
    with locked(folder):
      if not target.is_dir():  # Another process may be done.
        _write(records, view, target, progress)
  columns = {
    path.stem: np.load(path, mmap_mode="r")
    for path in sorted((target / "columns").iterdir())
  }
  images = Images(
    np.load(target / "image.npy", mmap_mode="r"),
    columns,
    json.loads((target / "digests.json").read_text()),
  )
  skipped = json.loads((target / "skipped.json").read_text())
  return images, [(name, reason) for name, reason in skipped]


def _write(records, view, target, progress) -> None:
  staged = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=_STAGED))
  try:
    _decode_into(staged, records, view, progress)
    os.rename(staged, target)
  finally:
    shutil.rmtree(staged, ignore_errors=True)


def _decode_into(staged, records, view, progress) -> None:
  """Writes `image.npy`, `columns/NAME.npy`, and two files of JSON."""
  kept: dict[str, list[np.ndarray]] = {}
  skipped, num_kept = [], 0
  digests: dict[str, tuple[int, Any]] = {}
  files: dict[str, str] = {}
  shape_HWC = (view.size, view.size, view.channels)

  def write_header(stream, num_images):
    # NumPy pads headers, so that the length of the first axis can be rewritten
    # in place.
    header = {"descr": "|u1", "fortran_order": False}
    header["shape"] = (num_images, *shape_HWC)
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.tell()

  def read(record):
    if isinstance(record.data, pictures.Unreadable):
      return record.data
    try:
      return pictures.read(record.data, view)
    except pictures.Unreadable as error:
      return error

  with (
    (staged / "image.npy").open("wb") as stream,
    futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    start = write_header(stream, 0)
    for first in range(0, len(records), _CHUNK):
      chunk = records.read(range(first, min(first + _CHUNK, len(records))))
      rows = []
      for record, image_HWC in zip(chunk, pool.map(read, chunk), strict=True):
        if isinstance(image_HWC, pictures.Unreadable):
          skipped.append((record.name, str(image_HWC)))
        else:
          rows.append(record.columns)
          stream.write(image_HWC.tobytes())
          _digest(digests, record.columns, image_HWC)
          if "side" in record.columns and len(files) <= _MOST_FILES:
            name = f"{record.columns['side']}/{record.columns['file']}"
            files[name] = f"{zlib.crc32(image_HWC):08x}"
      num_kept += len(rows)
      for name in rows[0] if rows else ():
        values = np.array([row[name] for row in rows])
        kept.setdefault(name, []).append(values)
      progress("decoding", first + len(chunk), len(records))
    if not num_kept:
      raise types.InputError(_nothing_left(skipped))
    stream.seek(0)
    assert write_header(stream, num_kept) == start
  (staged / "columns").mkdir()
  for name, parts in kept.items():
    values_N = np.concatenate(parts)
    if values_N.dtype.kind == "i":
      values_N = values_N.astype(np.int32)
    np.save(staged / "columns" / f"{name}.npy", values_N)
  (staged / "skipped.json").write_text(json.dumps(skipped))
  texts: dict[str, Any] = {
    part: f"{count} images, {digest.hexdigest()[:16]}"
    for part, (count, digest) in digests.items()
  }
  if 0 < len(files) <= _MOST_FILES:
    texts["files"] = files
  (staged / "digests.json").write_text(json.dumps(texts))


def _digest(digests, columns, image_HWC) -> None:
  """Adds an image to the count and to the hash of its part."""
  part = str(columns.get("side") or columns.get("split") or "all")
  count, digest = digests.get(part, (0, None))
  digest = digest or hashlib.sha256()
  digest.update("\0".join(map(str, columns.values())).encode())
  digest.update(image_HWC.tobytes())
  digests[part] = (count + 1, digest)


def _nothing_left(skipped: Sequence[tuple[str, str]]) -> str:
  if not skipped:
    return "There is no picture to read; choose a folder that contains some."
  name, reason = skipped[0]
  return (
    f"None of {len(skipped)} pictures can be used; the first, {name}: "
    f"{reason}. Replace them by the original files."
  )


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
  """Locks `folder` against other processes; creates it if it does not exist.

  The operating system frees the lock of a process that dies, and the next one
  removes what it left unfinished. On file systems without locks, nothing keeps
  processes apart, and nothing is removed.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / ".lock").open("w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
      pass  # The file system has no locks.
    else:
      for pattern in _UNFINISHED:
        for left in folder.glob(pattern):
          shutil.rmtree(left, ignore_errors=True)
    yield
