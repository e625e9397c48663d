"""A working directory belongs to one run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

import ml_collections

from icm_jax import types
from icm_jax.training import files

if TYPE_CHECKING:
  from collections.abc import Iterator

# What may change when a run goes on; everything else shapes its past.
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


def plain_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as JSON data."""
  return json.loads(config.to_json())


def claim(
  workdir: pathlib.Path, config: ml_collections.ConfigDict, *, resume: bool
) -> None:
  """Makes sure that `workdir` is free, or holds the run to go on with.

  Raises:
    InputError: it holds a run and `resume` is off, there is nothing to resume,
      or what is there was made with another config.
  """
  if workdir.exists() and not workdir.is_dir():
    raise types.InputError(f"--workdir={workdir} is a file, not a folder.")
  path = workdir / files.CONFIG
  if not path.exists():
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
  old = dict(_leaves(files.read_json(path)))
  new = dict(_leaves(plain_config(config)))
  changed = [
    f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name) and not name.startswith(_MAY_CHANGE)
  ]
  if changed:
    raise types.InputError(
      f"--workdir={workdir} holds a run with another config: "
      f"{'; '.join(changed)}. Resume it with its own config, or choose a new "
      "folder."
    )


@contextlib.contextmanager
def hold(
  workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> Iterator[None]:
  """Keeps other runs out while the block lasts, and writes `config.json`.

  Of two processes that go on with one run, each would write over what the other
  has written. File systems without locks keep nobody out.

  Args:
    workdir: made if it does not exist.
    config: of the run.

  Raises:
    InputError: another process is at work in it.
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
      pass  # No locks here.
    files.write_json(workdir / files.CONFIG, plain_config(config))
    yield
  finally:
    os.close(folder)


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
  """Reads the config of the run in `workdir`.

  Raises:
    InputError: there is none.
  """
  path = workdir / files.CONFIG
  if not path.exists():
    raise types.InputError(
      f"--workdir={workdir} holds no run: {files.CONFIG} is missing."
    )
  return ml_collections.ConfigDict(files.read_json(path)).lock()


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  if not isinstance(tree, dict):
    yield prefix, tree
    return
  for name, value in tree.items():
    yield from _leaves(value, f"{prefix}.{name}" if prefix else name)
