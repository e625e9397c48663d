"""Checkpoints with Orbax; the only file that imports it."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from icm_jax import types

FOLDER = "checkpoints"
KEPT = 2  # Checkpoints of a run.
# Bytes that the other files of a run may need from one checkpoint to the next.
_RESERVE = 8 << 20
_BYTES = 4  # Of a number, at most.
_NO_SPACE = os.strerror(errno.ENOSPC)


class Saved(NamedTuple):
  """The content of a checkpoint.

  Attributes:
    state: state of the competition, or of sequence models.
    classifier: parameters of the evaluation classifier; empty without one.
    progress: JSON data: `config`, and `seconds` spent so far by stage.
  """

  state: types.PyTree
  classifier: types.PyTree
  progress: dict[str, Any]


def check_space(
  folder: pathlib.Path, trees: types.PyTree, *, count: int = 1
) -> None:
  """Makes sure that there is space for checkpoints, before Orbax fails.

  Args:
    folder: folder of the checkpoints, which need not exist.
    trees: arrays of a checkpoint, which may be abstract.
    count: number of checkpoints.

  Raises:
    InputError: there is not; says how much is needed.
  """
  folder = pathlib.Path(folder).absolute()
  place = next(p for p in (folder, *folder.parents) if p.exists())
  size = sum(
    math.prod(_saved_shape(a)) * _BYTES for a in jax.tree.leaves(trees)
  )
  needed, free = count * size + _RESERVE, shutil.disk_usage(place).free
  if free < needed:
    raise types.InputError(
      f"{folder} needs {needed / 1e6:,.1f} MB for checkpoints and results, and "
      f"{free / 1e6:,.1f} MB are free. Free space, or choose another "
      "--workdir; a run that has begun goes on with --resume."
    )


def check_steps(workdir: pathlib.Path, last: int, flag: str) -> None:
  """Makes sure that a run has not gone on for longer than it shall.

  Args:
    workdir: folder of the run.
    last: updates that are done in the end.
    flag: name of the flag that says so.

  Raises:
    InputError: there is a checkpoint of a later step.
  """
  names = [path.name for path in (workdir / FOLDER).glob("*")]
  newest = max((int(name) for name in names if name.isdecimal()), default=0)
  if newest > last:
    raise types.InputError(
      f"{flag} asks for {last} steps, and the run in {workdir} has done "
      f"{newest}. Ask for at least as many, or start a run in a new folder."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps Orbax's threads from logging errors, which it raises as well."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    logger.setLevel(level)


class Checkpoints:
  """The checkpoints of a working directory, by step.

  The arrays of step N are a tree of their own in `checkpoints/N/arrays`, which
  `orbax.checkpoint.StandardCheckpointer` reads as nested dicts and lists,
  without any class of this package.

  Attributes:
    damaged: newer steps that `read_newest` passed over, and why.
  """

  def __init__(self, workdir: pathlib.Path, *, keep: int = KEPT):
    """Opens `workdir/checkpoints`, which is made if it does not exist.

    Args:
      workdir: folder of the run.
      keep: number of newest checkpoints that are kept.
    """
    self._manager = ocp.CheckpointManager(
      workdir.absolute() / FOLDER,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=False
      ),
      item_handlers={
        "arrays": ocp.StandardCheckpointHandler(),
        "progress": ocp.JsonCheckpointHandler(),
      },
    )
    self.damaged: dict[int, str] = {}

  def steps(self) -> list[int]:
    """Returns the steps of complete checkpoints, the newest first."""
    return sorted(self._manager.all_steps(), reverse=True)

  def save(self, saved: Saved) -> None:
    """Writes a checkpoint, whole or not at all.

    An existing checkpoint of the same step is kept, unless it is damaged.

    Raises:
      InputError: there is not enough space for it.
    """
    arrays = {"state": saved.state, "classifier": saved.classifier}
    step = int(saved.state.step)
    if step in self.damaged:
      self._manager.delete(step)
    if step not in self.steps():
      check_space(self._manager.directory, (saved.state, saved.classifier))
    try:
      with _quiet():
        self._manager.save(
          step,
          args=ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays),
            progress=ocp.args.JsonSave(saved.progress),
          ),
        )
    # Orbax and its libraries raise several kinds of errors.
    except Exception as error:
      if _NO_SPACE not in str(error):
        raise
      raise types.InputError(
        f"The checkpoint of step {step} cannot be written to "
        f"{self._manager.directory} ({_NO_SPACE}): something else has filled "
        "the disk. Free space, and continue with --resume from the last "
        "checkpoint."
      ) from error

  def read_newest(
    self,
    state: types.PyTree,
    classifier: types.PyTree,
    *,
    steps: int | None = None,
  ) -> Saved:
    """Reads the newest checkpoint that is not damaged.

    Arrays go to the devices of the shardings of `state` and `classifier`, or to
    the default device if these have none. The devices from which arrays were
    saved make no difference.

    Args:
      state: abstract state, as `jax.eval_shape` returns it.
      classifier: abstract parameters of the classifier.
      steps: completed updates of the checkpoint to read; None is any.

    Raises:
      InputError: there is no checkpoint that can be read; says of each whether
        it is damaged or of other networks.
    """
    like = jax.tree.map(_placed, {"state": state, "classifier": classifier})
    failures, fits = {}, True
    known = self.steps()
    if steps is not None and steps not in known:
      raise types.InputError(
        f"{self._manager.directory} holds no checkpoint of step {steps}; it "
        f"holds those of {', '.join(map(str, known)) or 'none'}."
      )
    for step in known if steps is None else [steps]:
      try:
        misfit = self._misfit(step, like)
        if misfit:
          failures[step] = f"does not fit, {misfit}"
          fits = False
          continue
        out = self._manager.restore(
          step,
          args=ocp.args.Composite(
            arrays=ocp.args.StandardRestore(like),
            progress=ocp.args.JsonRestore(),
          ),
        )
      # These errors say nothing about the checkpoint.
      except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
      # Orbax and its libraries raise many kinds of errors for damaged files.
      except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        failures[step] = f"is damaged, {reason or type(error).__name__}"
        continue
      if not fits:
        break  # Continuing from an older step would overwrite a newer one.
      self.damaged = failures
      return Saved(out.arrays["state"], out.arrays["classifier"], out.progress)
    raise types.InputError(self._explain(failures, fits))

  def _misfit(self, step: int, like: types.PyTree) -> str:
    """Describes the first unexpected array; "" if there is none.

    Args:
      step: step of the checkpoint, whose metadata are read.
      like: tree of the expected abstract arrays.
    """
    saved = self._manager.item_metadata(step).arrays
    if saved is None:
      raise ValueError("its arrays have no metadata")
    shapes = {name: tuple(array.shape) for name, array in _by_name(saved.tree)}
    expected = {name: _saved_shape(array) for name, array in _by_name(like)}
    for name in sorted(shapes.keys() | expected.keys()):
      if name not in expected:
        return f"it has {name}, which is not expected"
      if name not in shapes:
        return f"it has no {name}"
      if shapes[name] != expected[name]:
        return f"{name} has shape {shapes[name]}, expected {expected[name]}"
    return ""

  def _explain(self, failures: dict[int, str], fits: bool) -> str:
    """Returns the message for a folder without a readable checkpoint."""
    folder = self._manager.directory
    if not failures:
      return (
        f"{folder} holds no checkpoint; train with --resume to start the run "
        "again in this folder."
      )
    reasons = "; ".join(f"step {s} {why}" for s, why in failures.items())
    if not fits:
      return (
        f"No checkpoint in {folder} can be used: {reasons}. Checkpoints that "
        "do not fit are intact; use them with the config and the version of "
        "icm-jax with which they were made."
      )
    return (
      f"All checkpoints in {folder} are damaged: {reasons}. Copy the folder "
      "from a backup, or start the run again in another --workdir."
    )

  def close(self) -> None:
    """Frees the manager's threads."""
    self._manager.close()


def _placed(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
  """Returns an abstract array with a sharding, by default the default device's.

  Without a sharding, Orbax looks for the devices from which it was saved.
  """
  sharding = getattr(array, "sharding", None)
  is_abstract = isinstance(
    getattr(sharding, "mesh", None), jax.sharding.AbstractMesh
  )
  if sharding is None or is_abstract:
    sharding = jax.device_put(0).sharding
  return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _by_name(tree: types.PyTree) -> list[tuple[str, Any]]:
  """Returns arrays with their names, which Orbax joins from keys and fields."""
  return [
    (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def _saved_shape(array: jax.ShapeDtypeStruct) -> tuple[int, ...]:
  """Returns the saved shape of an array; a key is saved as its numbers."""
  if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
    return jax.eval_shape(jax.random.key_data, array).shape
  return array.shape
