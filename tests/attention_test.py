"""Attention in small groups, compiled and by XLA."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax.models import attention, compiled

# R, B, A, D, E: more members than a vector holds, odd sizes, many tasks, one.
SHAPES = [(9, 3, 2, 5, 11), (3, 19, 1, 16, 8), (6, 64, 4, 32, 32),
          (1, 1, 1, 1, 1)]  # fmt: skip

needs_compiled = pytest.mark.skipif(
  not compiled.is_compiled(),
  reason="nothing was compiled when the package was installed",
)


def draw(shape, groups=()):
  """Arguments of `attend`; `groups` are axes that vmap takes."""
  members, batch, heads, features, values = shape
  rng = np.random.default_rng(0)
  sizes = (features, features, values, members)
  arrays = [
    jnp.asarray(rng.normal(size=(*groups, members, batch, heads, size)))
    for size in sizes
  ]
  arrays[3] = jnp.where(arrays[3] > 0, 2.0, 0.0)  # As dropout has it.
  active_RB = rng.random((*groups, members, batch)) < 0.6
  return [array.astype("float32") for array in arrays], jnp.asarray(active_RB)


def value_and_gradients(attend, arrays, active):
  """Of what active members hear, with a cotangent that differs."""

  def objective(query, key, value):
    heard = attend(query, key, value, arrays[3], active)
    heard = jnp.where(active[..., None, None], heard, 0)
    weight = jnp.cos(jnp.arange(heard.size).reshape(heard.shape))
    return jnp.sum(heard * weight), heard

  run = jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)
  (_, heard), gradients = jax.jit(run)(*arrays[:3])
  return heard, gradients


@pytest.fixture
def by_xla(monkeypatch):
  """The same function, where nothing is compiled."""

  def attend(*arrays):
    with monkeypatch.context() as patch:
      patch.setattr(compiled, "is_compiled", lambda: False)
      return attention.attend(*arrays)

  return attend


def test_it_is_the_softmax_of_scaled_products(by_xla):
  (query, key, value, factor), active = draw(SHAPES[0])
  heard = by_xla(query, key, value, factor, active)
  for r, b, a in ((0, 0, 0), (8, 2, 1), (4, 1, 0)):
    weight = np.exp(key[:, b, a] @ query[r, b, a] / np.sqrt(5))
    weight = factor[r, b, a] * weight / weight.sum()
    np.testing.assert_allclose(
      heard[r, b, a], weight @ value[:, b, a], rtol=1e-4, atol=1e-5
    )


@needs_compiled
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_attention_is_that_of_xla(shape, by_xla):
  arrays, active = draw(shape)
  chex.assert_trees_all_close(
    value_and_gradients(attention.attend, arrays, active),
    value_and_gradients(by_xla, arrays, active),
    rtol=1e-5,
    atol=1e-5,
  )


@needs_compiled
def test_large_logits_do_not_overflow(by_xla):
  (query, *rest, factor), active = draw(SHAPES[0])
  arrays = [1000 * query, *rest, factor]
  chex.assert_trees_all_close(
    value_and_gradients(attention.attend, arrays, active),
    value_and_gradients(by_xla, arrays, active),
    rtol=1e-4,
    atol=1e-3,
  )


@needs_compiled
def test_mapped_attention_is_that_of_xla(by_xla):
  arrays, active = draw(SHAPES[0], groups=(3,))
  arrays[1] = arrays[1][0]  # Shared by all.
  axes = (0, None, 0, 0, 0)
  chex.assert_trees_all_close(
    value_and_gradients(jax.vmap(attention.attend, axes), arrays, active),
    value_and_gradients(jax.vmap(by_xla, axes), arrays, active),
    rtol=1e-5,
    atol=1e-5,
  )


@needs_compiled
def test_inactive_members_hear_nothing():
  arrays, active = draw(SHAPES[0])
  heard = np.asarray(attention.attend(*arrays, active))
  np.testing.assert_array_equal(heard[~np.asarray(active)], 0)
  assert (heard[np.asarray(active)] != 0).any(axis=(1, 2)).all()


def test_other_dtypes_are_for_xla(by_xla):
  arrays, active = draw(SHAPES[0])
  half = [array.astype("bfloat16") for array in arrays]
  heard = attention.attend(*half, active)
  assert heard.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    heard.astype("float32"), by_xla(*arrays, active), atol=0.2
  )
