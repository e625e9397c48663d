"""Files of a working directory, each written whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
EXAMPLES = "examples.npz"
TENSORBOARD = "tensorboard"


def write_bytes(path: pathlib.Path, data: bytes) -> None:
  """Writes a file so that a reader sees the old one or all of the new one."""
  handle, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(data)
    os.chmod(staged, 0o644)  # mkstemp makes it private.
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


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Rows of `metrics.jsonl`; a row that a crash cut short is left out."""
  path = workdir / METRICS
  rows = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
