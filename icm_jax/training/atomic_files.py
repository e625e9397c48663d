"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable
from typing import Any

from icm_jax import types

# Errors that folders and disks are at fault for, not this package.
OF_THE_DISK = frozenset(
  [
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOLCK,
    errno.ENOSPC,
    errno.ENOSYS,
    errno.ENOTDIR,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
  ]
)


def reason_of_the_disk(error: Exception) -> str:
  """Returns what is wrong with a disk or folder that cannot be written.

  Libraries that are written in C++ raise other kinds of errors than OSError,
  with the system's words in their texts.

  Args:
    error: an error that was raised while a file was written.

  Returns:
    The system's words; "" if the error is of another kind.
  """
  numbers = OF_THE_DISK | {errno.ENOENT}  # The folder has vanished.
  if isinstance(error, OSError) and error.errno is not None:
    return os.strerror(error.errno) if error.errno in numbers else ""
  words = (os.strerror(number) for number in numbers)
  return next((text for text in words if text in str(error)), "")


def write_bytes(path: pathlib.Path, data: bytes) -> None:
  """Writes a file so that readers see the old or the whole new content.

  Raises:
    InputError: the folder has vanished.
    OSError: the file cannot be written.
  """
  if not path.parent.is_dir():
    raise types.InputError(
      f"{path} cannot be written, because its folder has vanished. Bring "
      "the folder back, or start again in another one."
    )
  handle, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())  # Or a file could be empty after a power cut.
    os.chmod(staged, 0o644)  # mkstemp makes private files.
    os.replace(staged, path)
  except BaseException:
    pathlib.Path(staged).unlink(missing_ok=True)
    raise


def leftovers(folder: pathlib.Path, names: Iterable[str]) -> list[pathlib.Path]:
  """Returns files that processes left when they were killed in `write_bytes`.

  Args:
    folder: folder of the files.
    names: names of the files that were written.
  """
  random = "[a-z0-9_]" * 8  # As tempfile.mkstemp ends its names.
  return [p for name in names for p in folder.glob(f".{name}.{random}")]


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a value as indented JSON; NaN and infinity are refused."""
  text = json.dumps(value, indent=2, allow_nan=False)
  write_bytes(path, (text + "\n").encode())


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads an object from a JSON file.

  Raises:
    InputError: the file is empty, cut, or no JSON object.
  """
  try:
    value = json.loads(path.read_text())
  # What is no text raises UnicodeDecodeError, which is a ValueError too.
  except (ValueError, RecursionError) as error:
    raise types.InputError(
      f"{path} is damaged, {path.stat().st_size:,} bytes that are not valid "
      f"JSON: {error}. Copy it from a backup, or do without its run."
    ) from error
  if not isinstance(value, dict):
    raise types.InputError(
      f"{path} is damaged: it must hold a JSON object, and holds "
      f"{str(value)[:40]!r}. Copy it from a backup, or do without its run."
    )
  return value
