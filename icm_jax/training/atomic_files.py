"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any


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


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file."""
  return json.loads(path.read_text())
