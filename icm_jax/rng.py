"""The only way keys are made: a wide tree of named streams."""

from __future__ import annotations

import zlib

import jax


def stream(key: jax.Array, name: str, step: jax.Array | int = 0) -> jax.Array:
  """Key for one named use at one step, whatever else was drawn before.

  Args:
    key: typed key; may serve any number of streams.
    name: the use, such as "mixture"; other names give independent keys.
    step: the repetition of that use.

  Returns:
    A typed key, to be consumed once.
  """
  tag = zlib.crc32(name.encode()) & 0x7FFFFFFF  # hash() differs by process.
  return jax.random.fold_in(jax.random.fold_in(key, tag), step)
