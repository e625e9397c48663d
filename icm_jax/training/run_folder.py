"""The folder of a run: its files, and that it belongs to one run alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_collections

from icm_jax import types
from icm_jax.training import atomic_files

if TYPE_CHECKING:
  from collections.abc import Iterator

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
EXAMPLES = "examples.npz"
TENSORBOARD = "tensorboard"

# The format of `config.json` and of the checkpoints beside it. It is raised
# when this version of the package can no longer open earlier runs.
FORMAT = 2
# Values that may change when a run is resumed: no update depends on them.
_MAY_CHANGE = (
  "train.steps",
  "every.",
  "evaluation.",
  "chains.",
  "gate.",
  "detection.",
  "attributes.",
  "transfer.",
  "data.dir",
  "data.manual_dir",
  "data.download",
)

# Kinds of data sets of a user's own.
_OWN = ("folder", "folders")
# Values that are folders, and data sets that may be: `folder:` and `folders:`.
_FOLDERS = (
  "data.dir",
  "data.manual_dir",
  "transfer.manual_dir",
  "detection.single_network",
)
_DATA_SETS = ("data.name", "transfer.name")


def absolute(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A copy whose folders are absolute, so that a run works from anywhere."""
  config = config.copy_and_resolve_references()
  for path in (*_FOLDERS, *_DATA_SETS):
    section, name = path.split(".")
    value = config.get(section, {}).get(name)
    if value and path in _DATA_SETS:
      kind, colon, rest = value.partition(":")
      if kind in _OWN and colon:
        parts = rest.split(",") if kind == "folders" else [rest]
        rest = ",".join(map(_absolute, parts))
        config[section][name] = f"{kind}:{rest}"
    elif value:
      config[section][name] = _absolute(value)
  return config


def _absolute(path: str) -> str:
  return str(pathlib.Path(path.strip()).expanduser().absolute())


def plain_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as JSON data."""
  return json.loads(config.to_json())


def claim(
  workdir: pathlib.Path, config: ml_collections.ConfigDict, *, resume: bool
) -> None:
  """Makes sure that `workdir` is free, or holds the run to resume.

  Raises:
    InputError: it holds a run and `resume` is False, it holds no run and
      `resume` is True, or the run was started with another config.
  """
  if workdir.exists() and not workdir.is_dir():
    raise types.InputError(f"--workdir={workdir} is a file, not a folder.")
  if not holds_run(workdir):
    if resume:
      raise types.InputError(
        f"--workdir={workdir} holds no run to resume; start one without "
        "--resume."
      )
    if workdir.exists() and any(workdir.iterdir()):
      raise types.InputError(
        f"--workdir={workdir} is not empty and holds no run; choose a new "
        "folder."
      )
    return
  if not resume:
    raise types.InputError(
      f"--workdir={workdir} holds another run; go on with it by --resume, "
      "or choose a new folder."
    )
  old, new = plain_config(read(workdir).config), plain_config(config)
  changed = _changes(old, new, may_change=_may_change(old, new))
  if changed:
    raise types.InputError(
      f"--workdir={workdir} holds a run with another config: {changed}. Resume "
      "it with its own config, or choose a new folder."
    )


def _may_change(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, ...]:
  """Values that may change from one config to the other.

  A user's own folders may have moved. Whether they hold the same data is what
  `hold` looks at.
  """
  kinds = [
    config.get("data", {}).get("name", "").partition(":")[0]
    for config in (old, new)
  ]
  moved = kinds[0] == kinds[1] and kinds[0] in _OWN
  return (*_MAY_CHANGE, *(["data.name"] if moved else []))


@contextlib.contextmanager
def hold(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  saw: dict[str, Any],
) -> Iterator[None]:
  """Locks `workdir` while the block lasts, and writes `config.json`.

  Two processes that resume the same run would overwrite each other's files. On
  file systems without locks, nothing prevents that.

  Args:
    workdir: made if it does not exist.
    config: of the run.
    saw: JSON data, what the run took from its data: what must be known beside
      the config to make its networks again.

  Raises:
    InputError: another process works in it, or the run that it holds saw other
      data.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  folder = os.open(workdir, os.O_RDONLY)
  try:
    try:
      fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise types.InputError(
        f"Another process is at work in --workdir={workdir}; wait for it, or "
        "choose a new folder."
      ) from error
    except OSError:
      pass  # The file system has no locks.
    if holds_run(workdir):
      changed = _changes(read(workdir).saw, saw)
      if changed:
        raise types.InputError(
          f"--workdir={workdir} holds a run that saw other data: {changed}. "
          "Resume it with the data that it began with, or choose a new folder."
        )
    write(workdir, config, saw)
    yield
  finally:
    os.close(folder)


class Description(NamedTuple):
  """What `config.json` says.

  Attributes:
    config: of the run.
    saw: see `hold`.
  """

  config: ml_collections.ConfigDict
  saw: dict[str, Any]


def holds_run(workdir: pathlib.Path) -> bool:
  """Whether a run was started in a folder."""
  return (workdir / CONFIG).exists()


def write(
  workdir: pathlib.Path, config: ml_collections.ConfigDict, saw: dict[str, Any]
) -> None:
  """Writes `config.json`."""
  content = {"format": FORMAT, "saw": saw, "config": plain_config(config)}
  atomic_files.write_json(workdir / CONFIG, content)


def read(workdir: pathlib.Path) -> Description:
  """Reads `config.json`; everything that needs it does so here.

  Raises:
    InputError: there is none, or one of another format.
  """
  path = workdir / CONFIG
  if not path.exists():
    raise types.InputError(
      f"--workdir={workdir} holds no run: {CONFIG} is missing."
    )
  try:
    content = atomic_files.read_json(path)
  except json.JSONDecodeError as error:
    raise types.InputError(f"{path} is not valid JSON: {error}.") from error
  found = content.get("format")
  if found != FORMAT:
    raise types.InputError(
      f"{path} must have format {FORMAT}; it has "
      f"{'none' if found is None else found}: another version of icm-jax wrote "
      "it. Use that version to go on with the run, to evaluate it or to draw "
      "its page; the versions in result.json say which, if the run has ended."
    )
  config = ml_collections.ConfigDict(content["config"]).lock()
  return Description(config, content["saw"])


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Rows of `metrics.jsonl`, without one that a crash cut short."""
  path = workdir / METRICS
  rows = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


def _changes(old: Any, new: Any, may_change: tuple[str, ...] = ()) -> str:
  """Describes the values that differ and must not; "" if there are none."""
  old, new = dict(_leaves(old)), dict(_leaves(new))
  return "; ".join(
    f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name) and not name.startswith(may_change)
  )


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  if not isinstance(tree, dict):
    yield prefix, tree
    return
  for name, value in tree.items():
    yield from _leaves(value, f"{prefix}.{name}" if prefix else name)
