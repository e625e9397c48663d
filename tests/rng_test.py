import jax
import numpy as np

from icm_jax import rng


def bits(key):
  return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_streams_differ_by_name_and_step_and_repeat_exactly():
  root = jax.random.key(3)
  keys = [
    rng.stream(root, name, step) for name in ("a", "b") for step in range(3)
  ]
  assert len({bits(key) for key in keys}) == len(keys)
  assert bits(rng.stream(root, "a", 2)) == bits(keys[2])
  assert bits(jax.jit(rng.stream, static_argnums=1)(root, "b", 1)) == bits(
    keys[4]
  )
