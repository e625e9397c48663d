"""Rows of results, as JSON lines and as a table."""

import json
import pathlib
import threading
import time
from typing import Any


class Rows:
  """Writes rows as they come, and keeps them for the table."""

  def __init__(self, path: str, started: float):
    """Starts a new list.

    Args:
      path: a file to which rows are appended; "" is none.
      started: `time.perf_counter()` at the start of the program.
    """
    self.rows: list[dict[str, Any]] = []
    self._path = pathlib.Path(path) if path else None
    self._lock = threading.Lock()
    self._started = started

  def add(self, kind: str, **values: Any) -> None:
    row = {"kind": kind, **values}
    row["at_s"] = self.seconds()
    line = _line(row)
    with self._lock:
      self.rows.append(row)
      print(line, flush=True)
      if self._path:
        with self._path.open("a") as file:
          file.write(line + "\n")

  def seconds(self) -> float:
    """Returns the seconds since the start of the program."""
    return time.perf_counter() - self._started

  def of_kind(self, kind: str) -> list[dict[str, Any]]:
    return [row for row in self.rows if row["kind"] == kind]


def _line(row):
  rounded = {
    name: float(f"{value:.4g}") if isinstance(value, float) else value
    for name, value in row.items()
  }
  return json.dumps(rounded, default=str)


COLUMNS = {
  "experts": "experts",
  "batch": "batch",
  "image": "image",
  "dtype": "dtype",
  "form": "form",
  "updates": "updates",
  "seeds": "seeds",
  "ms": "ms",
  "to_torch": "/ torch",
  "share_of_products": "of products",
  "share_of_limit": "of limit",
  "peak_gib": "GiB",
  "compile_s": "compile s",
}


def table(rows: Rows) -> str:
  """Returns updates, ours and PyTorch's, as a table in Markdown."""

  def cell(value):
    if isinstance(value, (tuple, list)):
      return "x".join(map(str, value))
    if isinstance(value, float):
      return f"{value:.3g}"
    return "" if value is None else str(value)

  lines = [
    f"| {' | '.join(COLUMNS.values())} |",
    f"|{' --- |' * len(COLUMNS)}",
  ]
  for row in rows.of_kind("step") + rows.of_kind("torch"):
    if row["kind"] == "torch":
      row = {**row, "form": "torch.compile" if row["compile"] else "torch"}
    lines.append(f"| {' | '.join(cell(row.get(k)) for k in COLUMNS)} |")
  return "\n".join(lines)


def finish(rows: Rows, left: list[str]) -> None:
  """Prints what is short, then the table, whose end is the last line."""
  print(table(rows), flush=True)
  for row in rows.rows:
    if row["kind"] not in ("step", "torch", "kernels"):
      print(_line(row))
  print(
    f"left out: {', '.join(left) or 'nothing'}; {rows.seconds():.0f} s",
    flush=True,
  )
