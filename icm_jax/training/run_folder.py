"""The folder of a run: its files, its lock, and `config.json`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile
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
PAGE = "report.html"
GRID = "grid.png"
TENSORBOARD = "tensorboard"
# Files that are written whole or not at all.
_ATOMIC = (CONFIG, METRICS, RESULT, EXAMPLES, PAGE, GRID)
_PROBE = ".write-"  # The begin of the name of a folder that is made as a test.

# The format of `config.json` and of the checkpoints beside it. It is raised
# when this version of the package can no longer open earlier runs.
FORMAT = 5
# Values that may change when a run is resumed, because no update depends on
# them.
_MAY_CHANGE = (
  "train.steps",
  "mesh.",  # Numbers differ by rounding alone.
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
# Files that are told of each kind of change.
_NAMES_SHOWN = 3


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
  """Returns the config as JSON data."""
  return json.loads(config.to_json())


def claim(
  workdir: pathlib.Path, config: ml_collections.ConfigDict, *, resume: bool
) -> None:
  """Checks that a folder is free, or holds the run to resume.

  Args:
    workdir: the folder, which need not exist.
    config: config of the run.
    resume: whether the run is to be resumed.

  Raises:
    InputError: the folder holds a run and `resume` is False; it holds no run
      and `resume` is True; its run was started with another config; or the
      folder cannot be written.
  """
  _check_place(workdir)
  if not holds_run(workdir):
    if resume:
      raise types.InputError(
        f"--workdir={workdir} holds no run to resume; start one without "
        "--resume."
      )
    if workdir.exists() and set(workdir.iterdir()) - set(_leftovers(workdir)):
      raise types.InputError(
        f"--workdir={workdir} is not empty and holds no run; choose a new "
        "folder."
      )
    return
  if not resume:
    raise types.InputError(
      f"--workdir={workdir} holds a run already; continue it with --resume, or "
      "choose a new folder."
    )
  old, new = plain_config(read(workdir).config), plain_config(config)
  changed = _changes(old, new, may_change=_may_change(old, new))
  if changed:
    raise types.InputError(
      f"--workdir={workdir} holds a run with another config: {changed}. Resume "
      "it with its own config, or choose a new folder."
    )


def _leftovers(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns what processes left in a run's folder when they were killed."""
  files = atomic_files.leftovers(workdir, _ATOMIC)
  return [*files, *workdir.glob(f"{_PROBE}*")]


def _check_place(workdir: pathlib.Path) -> None:
  """Makes sure that a folder can be made, or written; leaves it as it is.

  Raises:
    InputError: it cannot.
  """
  existing = workdir.absolute()
  try:
    while not existing.exists():
      if existing.is_symlink():
        raise types.InputError(
          f"--workdir={workdir} cannot be used: {existing} is a link to "
          f"nothing, {existing.readlink()}. Make that folder, or choose "
          "another."
        )
      existing = existing.parent
    if not existing.is_dir():
      raise types.InputError(
        f"--workdir={workdir} cannot be used: {existing} is a file, not a "
        "folder. Choose another folder."
      )
    os.rmdir(tempfile.mkdtemp(dir=existing, prefix=_PROBE))
  except OSError as error:
    raise types.InputError(
      f"--workdir={workdir} cannot be written ({error.strerror}). Change "
      "permissions or free space, or choose another folder."
    ) from error


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
  """Writes `config.json`, and locks the folder during the block.

  What killed processes left unfinished in the folder is removed.

  The lock prevents that two processes resume the same run and overwrite each
  other's files. It has no effect on file systems without locks.

  Args:
    workdir: folder of the run; made if it does not exist.
    config: config of the run.
    saw: JSON data, facts that the run took from its data and that are needed,
      besides the config, to make its networks.

  Raises:
    InputError: another process uses the folder, or its run saw other data.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  folder = os.open(workdir, os.O_RDONLY)
  try:
    try:
      fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise types.InputError(
        f"Another process uses --workdir={workdir}; wait until it ends, or "
        "choose a new folder."
      ) from error
    except OSError:
      pass  # The file system has no locks.
    if holds_run(workdir):
      check_saw(workdir, saw)
    write(workdir, config, saw)
    for path in _leftovers(workdir):
      if path.is_dir():
        path.rmdir()
      else:
        path.unlink()
    yield
  finally:
    os.close(folder)


def check_saw(workdir: pathlib.Path, saw: dict[str, Any]) -> None:
  """Makes sure that the data are those that a run began with.

  Args:
    workdir: of the run.
    saw: see `hold`, of the data as they are now.

  Raises:
    InputError: names what changed.
  """
  old = read(workdir).saw
  if "data" not in old:  # Runs of earlier versions did not store it.
    saw = {name: value for name, value in saw.items() if name != "data"}
  (old, old_files), (saw, files) = map(_without_files, (old, saw))
  changed = _changes(old, saw)
  if changed and old_files and files:
    changed += _changed_files(old_files, files)
  if changed:
    raise types.InputError(
      f"--workdir={workdir} holds a run that saw other data: {changed}. Give "
      "it the data that it began with, or start a run in a new folder."
    )


def _without_files(
  saw: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, str]]:
  """Facts without the hashes of single files; and these hashes."""
  data = dict(saw.get("data", {}))
  files = data.pop("files", {})
  return ({**saw, "data": data} if "data" in saw else saw), files


def _changed_files(old: dict[str, str], new: dict[str, str]) -> str:
  """Names of files that are gone, new or changed, as the end of a sentence."""
  kinds = {
    "gone": sorted(old.keys() - new.keys()),
    "new": sorted(new.keys() - old.keys()),
    "changed": sorted(n for n in old if n in new and old[n] != new[n]),
  }
  return "".join(
    f"; {kind}: {', '.join(names[:_NAMES_SHOWN])}"
    + (f" and {len(names) - _NAMES_SHOWN:,} more" * (len(names) > _NAMES_SHOWN))
    for kind, names in kinds.items()
    if names
  )


class Description(NamedTuple):
  """The content of `config.json`.

  Attributes:
    config: config of the run.
    saw: facts that the run took from its data, see `hold`.
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
  """Reads `config.json`.

  Args:
    workdir: folder of a run.

  Raises:
    InputError: the file is missing, damaged or of another format.
  """
  path = workdir / CONFIG
  if not path.exists():
    raise types.InputError(
      f"--workdir={workdir} holds no run: {CONFIG} is missing."
    )
  content = atomic_files.read_json(path)
  found = content.get("format")
  if found != FORMAT:
    raise types.InputError(
      f"{path} must have format {FORMAT}; it has "
      f"{'none' if found is None else found}: another version of icm-jax wrote "
      "it. Use that version to resume the run, to evaluate it or to draw its "
      "page. If the run has ended, result.json names the version."
    )
  for name in ("config", "saw"):
    if not isinstance(content.get(name), dict):
      raise types.InputError(
        f"{path} is damaged: it has no {name!r}. Copy it from a backup, or do "
        "without its run."
      )
  config = ml_collections.ConfigDict(content["config"]).lock()
  return Description(config, content["saw"])


def read_result(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Reads `result.json`; None if there is none.

  Raises:
    InputError: it is damaged.
  """
  path = workdir / RESULT
  if not path.exists():
    return None
  result = atomic_files.read_json(path)
  missing = {"config", "seed", "steps", "time", "versions"} - result.keys()
  if missing:
    raise types.InputError(
      f"{path} is damaged: it has no {', '.join(sorted(missing))}. Write it "
      "again with experiments.evaluate."
    )
  return result


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the rows of `metrics.jsonl` up to one that a crash cut short."""
  path = workdir / METRICS
  rows: list[dict[str, Any]] = []
  if not path.exists():
    return rows
  for line in path.read_text(errors="replace").splitlines():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      break
    if not isinstance(row, dict) or "step" not in row:
      break
    rows.append(row)
  return rows


def _changes(old: Any, new: Any, may_change: tuple[str, ...] = ()) -> str:
  """Describes values that changed and must not; "" if there are none."""
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
