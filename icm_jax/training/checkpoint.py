"""Checkpoints with Orbax; the only file that imports it."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from icm_jax import types


class Saved(NamedTuple):
  """What a checkpoint holds.

  Attributes:
    state: of the competition, or of sequence models.
    classifier: parameters of the evaluation classifier; empty without one.
    progress: JSON data: the config, and seconds spent so far.
  """

  state: types.PyTree
  classifier: types.PyTree
  progress: dict[str, Any]


class Checkpoints:
  """The checkpoints of a working directory, by step."""

  def __init__(self, workdir: pathlib.Path, *, keep: int = 2):
    """Opens `workdir/checkpoints`, and makes it if need be."""
    self._manager = ocp.CheckpointManager(
      workdir.absolute() / "checkpoints",
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=False
      ),
    )
    self._damaged: set[int] = set()

  def steps(self) -> list[int]:
    """Complete steps, the newest first."""
    return sorted(self._manager.all_steps(), reverse=True)

  def save(self, saved: Saved) -> None:
    """Writes a checkpoint, whole or not at all; an existing one is kept."""
    arrays = {"state": saved.state, "classifier": saved.classifier}
    step = int(saved.state.step)
    if step in self._damaged:
      self._manager.delete(step)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays),
        progress=ocp.args.JsonSave(saved.progress),
      ),
    )

  def restore(self, state: types.PyTree, classifier: types.PyTree) -> Saved:
    """Reads the newest checkpoint that is not damaged.

    Args:
      state: abstract, as `jax.eval_shape` gives it.
      classifier: abstract parameters.

    Raises:
      InputError: there is no checkpoint, or none that can be read.
    """
    like = {"state": state, "classifier": classifier}
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    failures = {}
    for step in self.steps():
      try:
        out = self._manager.restore(
          step,
          args=ocp.args.Composite(
            arrays=ocp.args.StandardRestore(like),
            progress=ocp.args.JsonRestore(),
          ),
        )
      # Orbax and the libraries under it raise many kinds for damaged files.
      except Exception as error:
        failures[step] = str(error).splitlines()[0] if str(error) else error
        continue
      self._damaged = set(failures)
      return Saved(out.arrays["state"], out.arrays["classifier"], out.progress)
    reason = "; ".join(f"step {s}: {why}" for s, why in failures.items())
    raise types.InputError(
      f"No checkpoint in {self._manager.directory} can be read "
      f"({reason or 'none was saved'}). "
      "Start the run again in another --workdir."
    )

  def close(self) -> None:
    """Frees the manager's threads."""
    self._manager.close()
