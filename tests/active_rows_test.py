"""Products of active rows, compiled and by XLA's ragged products."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import types
from icm_jax.models import active_rows, compiled

# R, B, D, E: whole vectors, odd sizes, less than a vector, one row, many tasks.
SHAPES = [(3, 8, 16, 32), (2, 7, 13, 27), (4, 3, 5, 3), (2, 1, 1, 1),
          (3, 64, 150, 139)]  # fmt: skip


@pytest.fixture(params=["compiled", "ragged"])
def path(request, monkeypatch):
  """Either way; the first only where something was compiled."""
  if request.param == "ragged":
    monkeypatch.setattr(compiled, "is_compiled", lambda: False)
  elif not compiled.is_compiled():
    pytest.skip("nothing was compiled when the package was installed")


def draw(seed, *shape, dtype="float32"):
  drawn = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(drawn, dtype)


def draw_active(*shape):
  """Of the first group all rows are active, of the last one none."""
  active_RB = np.random.default_rng(9).random(shape) < 0.5
  active_RB[..., 0, :] = True
  active_RB[..., -1, :] = False
  return jnp.asarray(active_RB)


def masked(x_RBD, kernel_RDE, active_RB):
  y_RBE = jnp.einsum("...rbd,...rde->...rbe", x_RBD, kernel_RDE)
  return jnp.where(active_RB[..., None], y_RBE, 0)


def value_and_gradients(function, x, kernel, active):
  """With a cotangent that differs from one output to the next."""

  def objective(x, kernel):
    y = function(x, kernel, active)
    return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape))), y

  run = jax.jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))
  (_, y), gradients = run(x, kernel)
  return y, gradients


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("shape", SHAPES)
def test_active_rows_are_multiplied_and_others_are_zeros(shape):
  rims, rows, inside, outside = shape
  x, kernel = draw(0, rims, rows, inside), draw(1, rims, inside, outside)
  active = draw_active(rims, rows)
  count = int(active.sum())

  def multiply(x, kernel, active):
    return active_rows.multiply(x, kernel, active, count)

  # What stands in other rows must not matter, were it not a number.
  expected = value_and_gradients(masked, x, kernel, active)
  x = jnp.where(active[..., None], x, jnp.nan)
  chex.assert_trees_all_close(
    value_and_gradients(multiply, x, kernel, active),
    expected,
    rtol=1e-5,
    atol=5e-5,
  )


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, 0), (None, 0, None)])
def test_mapped_products_are_the_same(axes):
  sizes = [(3,) * (axis == 0) for axis in axes]
  x = draw(0, *sizes[0], 2, 5, 4)
  kernel = draw(1, *sizes[1], 2, 4, 9)
  # As many in every mapped part.
  active = jnp.broadcast_to(draw_active(2, 5), (*sizes[2], 2, 5))

  def mapped(x, kernel, active):
    one = lambda x, kernel, active: active_rows.multiply(x, kernel, active, 5)
    return jax.vmap(one, in_axes=axes)(x, kernel, active)

  chex.assert_trees_all_close(
    value_and_gradients(mapped, x, kernel, active),
    value_and_gradients(masked, x, kernel, active),
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.usefixtures("path")
def test_gradients_of_each_mapped_part():
  x, kernel = draw(0, 3, 2, 5, 4), draw(1, 2, 4, 9)
  active = draw_active(2, 5)

  def gradients(multiply, x):
    value = lambda x, kernel: jnp.sum(multiply(x, kernel, active) ** 2)
    return jax.grad(value, argnums=(0, 1))(x, kernel)

  multiply = lambda *arrays: active_rows.multiply(*arrays, 5)
  run = jax.jit(jax.vmap(gradients, in_axes=(None, 0)), static_argnums=0)
  chex.assert_trees_all_close(
    run(multiply, x), run(masked, x), rtol=1e-5, atol=1e-4
  )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_are_for_xla(dtype):
  x, kernel = draw(0, 2, 5, 4, dtype=dtype), draw(1, 2, 4, 9, dtype=dtype)
  active = draw_active(2, 5)
  y = jax.jit(active_rows.multiply, static_argnums=3)(x, kernel, active, 5)
  assert y.dtype == dtype
  expected = masked(*(a.astype("float32") for a in (x, kernel)), active)
  np.testing.assert_allclose(y.astype("float32"), expected, atol=0.05)


def test_a_row_does_not_depend_on_others():
  """Bit by bit, whichever rows are active beside it."""
  if not compiled.is_compiled():
    pytest.skip("nothing was compiled when the package was installed")
  x, kernel = draw(0, 1, 64, 150), draw(1, 1, 150, 139)
  everyone = active_rows.multiply(x, kernel, jnp.ones((1, 64), bool), 64)
  few = jnp.zeros((1, 64), bool).at[0, np.array([3, 20, 63])].set(True)
  some = active_rows.multiply(x, kernel, few, 3)
  np.testing.assert_array_equal(some[few], everyone[few])


def test_shapes_that_do_not_fit_are_told():
  with pytest.raises(types.InputError, match=r"rows \[R, B, D\].*\(2, 5, 4\)"):
    active_rows.multiply(
      draw(0, 2, 5, 4), draw(1, 2, 3, 9), draw_active(2, 5), 5
    )
