"""The arrays of a state: their names, saved shapes and finite numbers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from icm_jax import types


def placed(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
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


def by_name(tree: types.PyTree) -> list[tuple[str, Any]]:
  """Returns arrays with their names, which Orbax joins from keys and fields."""
  return [
    (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def saved_shape(array: jax.ShapeDtypeStruct) -> tuple[int, ...]:
  """Returns the saved shape of an array; a key is saved as its numbers."""
  if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
    return jax.eval_shape(jax.random.key_data, array).shape
  return array.shape


def check_finite(step: int, trees: types.PyTree) -> None:
  """Makes sure that a checkpoint holds no NaN and no infinity.

  Raises:
    FloatingPointError: it does; says what part and which experts do.
  """
  bad = not_finite(trees)
  if bad:
    raise FloatingPointError(
      f"The state after step {step} is not finite: {bad}. It is not saved, and "
      "the checkpoints before it are kept. Start again with lower learning "
      "rates, or with another seed."
    )


def not_finite(tree: types.PyTree) -> str:
  """Describes the parts of a state that hold a NaN or an infinity.

  Args:
    tree: a state, or a part of one. Only shards of this process are looked at.

  Returns:
    Names of the uppermost fields, and the numbers of experts in fields that
    end in `_E`, as text; "" if all numbers are finite. Where no
    expert is finite, the text says so, because the reason may then be the
    discriminator.
  """
  found: dict[str, set[int]] = {}
  num_experts = 0
  for name, leaf in by_name(tree):
    if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact):
      continue
    fields = name.removeprefix("state.").split(".")
    for shard in jax.numpy.asarray(leaf).addressable_shards:
      ok = np.isfinite(np.asarray(shard.data))
      if shard.replica_id or ok.all():
        continue
      experts = found.setdefault(fields[0], set())
      if fields[0].endswith("_E"):
        num_experts = leaf.shape[0]
        first = shard.index[0].start or 0
        axes = tuple(range(1, ok.ndim))
        experts |= {first + int(n) for n in np.flatnonzero(~ok.all(axis=axes))}

  def which(experts: set[int]) -> str:
    if not experts:
      return ""
    if len(experts) == num_experts > 1:
      return " of all experts"
    return f" of expert {', '.join(map(str, sorted(experts)))}"

  return ", ".join(field + which(experts) for field, experts in found.items())
