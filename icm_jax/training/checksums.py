"""Checksums of a folder's files, which tell later whether it is damaged."""

from __future__ import annotations

import hashlib
import json
import pathlib

FILE = "checksums.json"


def write(folder: pathlib.Path) -> None:
  """Writes the checksums of all files below a folder to `checksums.json`.

  Args:
    folder: a folder whose files are all written.
  """
  names = [
    path.relative_to(folder).as_posix()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  ]
  content = {name: _checksum(folder / name) for name in names}
  (folder / FILE).write_text(json.dumps(content, indent=1))


def verify(folder: pathlib.Path) -> None:
  """Compares the files below a folder with their checksums.

  Files that came later are ignored, as is a folder without checksums, because
  earlier versions of this package wrote none.

  Args:
    folder: a folder that `write` has seen.

  Raises:
    ValueError: names the first file that is missing or changed, or says that
      the checksums themselves are damaged.
  """
  path = folder / FILE
  if not path.exists():
    return
  try:
    content = json.loads(path.read_bytes())
    expected = [(name, (n, sha)) for name, (n, sha) in content.items()]
  # What is no text, no JSON or of another structure raises several kinds.
  except (ValueError, TypeError, AttributeError, RecursionError) as error:
    raise ValueError(f"{FILE} cannot be read") from error
  for name, entry in expected:
    if not (folder / name).is_file():
      raise ValueError(f"{name} is missing")
    size = (folder / name).stat().st_size
    if size != entry[0]:
      raise ValueError(f"{name} has {size:,} of {entry[0]} bytes")
    if _checksum(folder / name) != entry:
      raise ValueError(f"{name} differs from its checksum")


def _checksum(path: pathlib.Path) -> tuple[int, str]:
  """Returns the size and the SHA-256 of a file."""
  with path.open("rb") as stream:
    digest = hashlib.file_digest(stream, "sha256").hexdigest()
  return path.stat().st_size, digest
