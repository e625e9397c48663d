"""Checkpoints with Orbax; the only file that imports it."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import pathlib
import shutil
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from icm_jax import types
from icm_jax.training import atomic_files, checksums, state_arrays

FOLDER = "checkpoints"
KEPT = 2  # The newest checkpoints of a run, besides the best one.
SCORE = "score"  # The name of a checkpoint's score in its progress.
# Bytes that the other files of a run may need from one checkpoint to the next.
_RESERVE = 8 << 20
_BYTES = 4  # Of a number, at most.
# Orbax measures by a clock that may be set to another time meanwhile.
_NEVER_S = 10**8


class Damaged(types.InputError):
  """All checkpoints that could be read are damaged."""


class Saved(NamedTuple):
  """The content of a checkpoint.

  Attributes:
    state: state of the competition, or of sequence models.
    classifier: parameters of the evaluation classifier; empty without one.
    progress: JSON data: `config`, `seconds` spent so far by stage, and
      `score`, of which the highest one marks the best checkpoint; None or
      missing if it was not measured.
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
    math.prod(state_arrays.saved_shape(a)) * _BYTES
    for a in jax.tree.leaves(trees)
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


def _with_checksums(handler: Any) -> Any:
  """Makes an Orbax handler write checksums before its files are in place.

  Orbax finds handlers by their classes, so that the object itself is changed.
  """
  finalize = handler.finalize

  def finalize_with_checksums(directory) -> None:
    finalize(directory)
    checksums.write(pathlib.Path(directory))

  handler.finalize = finalize_with_checksums
  return handler


class _Kept:
  """Keeps the newest checkpoints and the best one, as Orbax's policies do.

  Attributes:
    newest: number of newest checkpoints that are kept.
    scores: scores of steps that have one.
  """

  def __init__(self, newest: int):
    self.newest = newest
    self.scores: dict[int, float] = {}

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    """Tells for each checkpoint, the oldest first, whether it is kept."""
    del context
    steps = [info.step for info in checkpoints]
    scores = {s: self.scores[s] for s in steps if s in self.scores}
    # The newest one of equally good ones.
    best = max(scores, key=lambda step: (scores[step], step), default=None)
    return [step == best or step in steps[-self.newest :] for step in steps]


class Checkpoints:
  """The checkpoints of a working directory, by step.

  The arrays of step N are a tree of their own in `checkpoints/N/arrays`, which
  `orbax.checkpoint.StandardCheckpointer` reads as nested dicts and lists,
  without any class of this package.

  Attributes:
    damaged: steps that `read_newest` has found damaged, and why.
  """

  def __init__(
    self, workdir: pathlib.Path, *, keep: int = KEPT, writes: bool = True
  ):
    """Opens `workdir/checkpoints`.

    Args:
      workdir: folder of the run.
      keep: number of newest checkpoints that are kept, besides the best one.
      writes: whether checkpoints will be saved. The folder is then made, and
        what killed processes left in it is removed, so that no other process
        may use it for writing.
    """
    self._folder = workdir.absolute() / FOLDER
    self._kept = _Kept(keep)
    self.damaged: dict[int, str] = {}
    self._manager: Any = None
    if not writes and not self._folder.is_dir():
      return
    logger = logging.getLogger("absl")
    self._quiet = contextlib.ExitStack()
    self._quiet.callback(logger.setLevel, logger.level)
    # Orbax logs errors, also from other threads, and raises them as well.
    logger.setLevel(logging.CRITICAL)
    if writes and self._folder.is_dir() and jax.process_index() == 0:
      # Orbax removes what killed saves left in a thread, and waits for it only
      # before it saves. If nothing is saved, the thread outlives the manager,
      # and can remove what the next one writes.
      for left in ocp.utils.tmp_checkpoints(self._folder):
        shutil.rmtree(left.get())
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        save_interval_steps=1 if writes else 0,
        create=writes,
        read_only=not writes,
        preservation_policy=self._kept,
        async_options=ocp.AsyncOptions(
          timeout_secs=_NEVER_S, create_directories_asynchronously=False
        ),
      ),
      item_handlers={
        "arrays": _with_checksums(ocp.StandardCheckpointHandler()),
        "progress": _with_checksums(ocp.JsonCheckpointHandler()),
      },
    )
    self._opened = self._identity()
    for step in self.steps() if writes else ():
      self._remember_score(step, _score_of(self._folder / f"{step}"))

  def _identity(self) -> int | None:
    """Returns the number of the folder; None if it has vanished."""
    try:
      return self._folder.stat().st_ino
    except FileNotFoundError:
      return None

  def _remember_score(self, step: int, score: float | None) -> None:
    self._kept.scores.pop(step, None)  # A damaged checkpoint may have had one.
    if score is not None:
      self._kept.scores[step] = score

  def steps(self) -> list[int]:
    """Returns the steps of complete checkpoints, the newest first."""
    if self._manager is None:
      return []
    return sorted(self._manager.all_steps(), reverse=True)

  def save(self, saved: Saved) -> None:
    """Begins to write a checkpoint, whole or not at all.

    The arrays are copied, or kept from being overwritten, before this returns;
    files are written by other threads. `wait` waits for them. An existing
    checkpoint of the same step is kept, unless it is damaged.

    Raises:
      InputError: there is not enough space for it, or it cannot be written;
        also if that was so for the checkpoint before.
      FloatingPointError: a number is not finite; nothing is written.
    """
    self.wait()
    arrays = {"state": saved.state, "classifier": saved.classifier}
    step = int(saved.state.step)
    state_arrays.check_finite(step, arrays)
    with self._explained(f"of step {step} "):
      # Orbax saves no step before the newest one.
      for damaged in self.damaged:
        self._manager.delete(damaged)
      self.damaged = {}
      if step in self.steps():
        return
      if self._identity() is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
      check_space(self._folder, (saved.state, saved.classifier))
      self._remember_score(step, saved.progress.get(SCORE))
      self._manager.save(
        step,
        args=ocp.args.Composite(
          arrays=ocp.args.StandardSave(arrays),
          progress=ocp.args.JsonSave(saved.progress),
        ),
      )

  def wait(self) -> None:
    """Waits until checkpoints are written.

    Raises:
      InputError: a checkpoint cannot be written.
    """
    with self._explained(""):
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _explained(self, which: str) -> Iterator[None]:
    try:
      yield
    except types.InputError:
      raise
    # Orbax and its libraries raise several kinds of errors.
    except Exception as error:
      reason = atomic_files.reason_of_the_disk(error)
      if self._identity() != self._opened:  # TensorStore makes it again.
        reason = os.strerror(errno.ENOENT)
      if not reason:
        raise
      raise types.InputError(
        f"The checkpoint {which}cannot be written to {self._folder} ({reason})."
        " The checkpoints before it are kept: free space or give the folder "
        "back, and continue with --resume."
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
      Damaged: all of them are damaged; says how.
      InputError: there is none, or one is of other networks; says of each
        whether it is damaged or does not fit.
    """
    like = jax.tree.map(
      state_arrays.placed, {"state": state, "classifier": classifier}
    )
    failures, fits = {}, True
    known = self.steps()
    if steps is not None and steps not in known:
      raise types.InputError(
        f"{self._folder} holds no checkpoint of step {steps}; it "
        f"holds those of {', '.join(map(str, known)) or 'none'}."
      )
    for step in known if steps is None else [steps]:
      try:
        for item in ("arrays", "progress"):
          checksums.verify(self._folder / f"{step}" / item)
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
    message = self._explain(failures, fits)
    if not failures or not fits:
      raise types.InputError(message)
    self.damaged = failures
    raise Damaged(message)

  def passed_over(self) -> list[str]:
    """Returns a line for each damaged checkpoint that `read_newest` met."""
    return [
      f"the checkpoint of step {step} {reason}; the one before it is used"
      for step, reason in self.damaged.items()
    ]

  def _misfit(self, step: int, like: types.PyTree) -> str:
    """Describes the first unexpected array; "" if there is none.

    Args:
      step: step of the checkpoint, whose metadata are read.
      like: tree of the expected abstract arrays.
    """
    saved = self._manager.item_metadata(step).arrays
    if saved is None:
      raise ValueError("its arrays have no metadata")
    shapes = {
      name: tuple(array.shape)
      for name, array in state_arrays.by_name(saved.tree)
    }
    expected = {
      name: state_arrays.saved_shape(array)
      for name, array in state_arrays.by_name(like)
    }
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
    folder = self._folder
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
    """Waits until checkpoints are written, and frees the manager's threads.

    Raises:
      InputError: a checkpoint cannot be written.
    """
    if self._manager is not None:
      with self._quiet, self._explained(""):
        self._manager.close()


def read(
  workdir: pathlib.Path,
  state: types.PyTree,
  classifier: types.PyTree,
  *,
  steps: int | None = None,
) -> Saved:
  """Reads the newest checkpoint of a run that another process may go on with.

  Warns of damaged checkpoints that are passed over.

  Args:
    workdir: folder of the run; it may be on a file system that cannot be
      written.
    state: see `Checkpoints.read_newest`, as the other arguments.
    classifier: abstract parameters of the classifier.
    steps: completed updates of the checkpoint to read; None is any.

  Raises:
    InputError: there is no checkpoint that can be read.
  """
  opened = Checkpoints(workdir, writes=False)
  with contextlib.closing(opened) as checkpoints:
    saved = checkpoints.read_newest(state, classifier, steps=steps)
  for line in checkpoints.passed_over():
    warnings.warn(f"{workdir}: {line}", RuntimeWarning, stacklevel=2)
  return saved


def _score_of(folder: pathlib.Path) -> float | None:
  """Returns the score of a checkpoint; None if it has none, or is damaged."""
  try:
    score = json.loads((folder / "progress" / "metadata").read_bytes())[SCORE]
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None
  return score if isinstance(score, float) else None
