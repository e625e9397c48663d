"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any

from icm_jax import types


def write_bytes(path: pathlib.Path, data: bytes) -> None:
  """Writes a file so that readers see the old or the whole new content."""
  handle, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(data)
    os.chmod(staged, 0o644)  # mkstemp makes private files.
    os.replace(staged, path)
  except BaseException:
    pathlib.Path(staged).unlink(missing_ok=True)
    raise


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
