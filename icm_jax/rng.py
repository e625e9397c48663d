"""Random keys by name: every part of the library makes its keys here."""

from __future__ import annotations

import zlib

import jax


def stream(key: jax.Array, name: str, step: jax.Array | int = 0) -> jax.Array:
  """Returns the key for one named use at one step.

  It depends on nothing that was drawn before.

  Args:
    key: typed key; may be the root of any number of streams.
    name: name of the use, such as "mixture"; other names give independent keys.
    step: number of the repetition of that use.

  Returns:
    A typed key, to be consumed once.
  """
  tag = zlib.crc32(name.encode()) & 0x7FFFFFFF  # hash() differs by process.
  return jax.random.fold_in(jax.random.fold_in(key, tag), step)
