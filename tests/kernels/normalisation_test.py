import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from icm_jax import kernels
from icm_jax.kernels import normalisation

needs_compiled = pytest.mark.skipif(
  not kernels.is_compiled(),
  reason="nothing was compiled when the package was installed",
)
FORMS = [
  pytest.param(normalisation.batch_norm_elu, marks=needs_compiled),
  normalisation.plain_batch_norm_elu,
]


def draw(rng, *shape, mean=0.0):
  return jnp.asarray(rng.normal(mean, 1.0, shape), jnp.float32)


def by_flax(x_BHWC, scale_C, bias_C):
  """Returns the result of linen's layer, whose statistics start as 0 and 1."""
  channels = scale_C.shape[0]
  variables = {
    "params": {"scale": scale_C, "bias": bias_C},
    "batch_stats": {"mean": jnp.zeros(channels), "var": jnp.zeros(channels)},
  }
  layer = nn.BatchNorm(
    use_running_average=False, momentum=0.0, use_fast_variance=False
  )
  y_BHWC, new = layer.apply(variables, x_BHWC, mutable=["batch_stats"])
  return nn.elu(y_BHWC), new["batch_stats"]["mean"], new["batch_stats"]["var"]


def value_and_gradients(fn, *arrays):
  """Returns the gradient for a cotangent that differs between outputs."""

  def objective(*arrays):
    y, *statistics = fn(*arrays)
    weight = jnp.cos(jnp.arange(y.size)).reshape(y.shape)
    return jnp.sum(y * weight), (y, *statistics)

  run = jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True))
  (_, outputs), gradients = run(*arrays)
  return outputs, gradients


def assert_near(actual, expected):
  largest = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
  "shape",
  # 32 channels fill vectors of 16 floats, where a machine has these.
  [(3, 5, 7, 8), (2, 4, 4, 20), (3, 4, 5, 32), (1, 2, 3, 1), (40, 2, 2, 3)],
)
def test_batch_norm_elu_equals_linens_layer_and_an_elu(form, shape):
  rng = np.random.default_rng(0)
  arrays = (
    draw(rng, *shape),
    draw(rng, shape[-1]),
    draw(rng, shape[-1]),
  )
  jax.tree.map(
    assert_near,
    value_and_gradients(form, *arrays),
    value_and_gradients(by_flax, *arrays),
  )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", [(0, 0, 0), (None, 0, 0), (0, None, None)])
def test_every_group_has_statistics_of_its_own(form, axes):
  rng = np.random.default_rng(0)
  shapes = (2, 3, 3, 9), (9,), (9,)
  arrays = [
    draw(rng, *(() if axis is None else (4,)), *shape)
    for axis, shape in zip(axes, shapes, strict=True)
  ]
  jax.tree.map(
    assert_near,
    value_and_gradients(jax.vmap(form, axes), *arrays),
    value_and_gradients(jax.vmap(by_flax, axes), *arrays),
  )


@pytest.mark.parametrize("form", FORMS)
def test_the_variance_is_exact_if_the_mean_is_far_from_zero(form):
  x_BHWC = draw(np.random.default_rng(0), 8, 6, 6, 8, mean=1e3)
  _, mean_C, variance_C = jax.jit(form)(x_BHWC, jnp.ones(8), jnp.zeros(8))
  exact_BHWC = np.asarray(x_BHWC, np.float64)
  np.testing.assert_allclose(mean_C, exact_BHWC.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(variance_C, exact_BHWC.var((0, 1, 2)), rtol=1e-5)


@needs_compiled
def test_results_are_bit_identical_again_and_again():
  rng = np.random.default_rng(0)
  arrays = draw(rng, 5, 50, 6, 6, 16), draw(rng, 5, 16), draw(rng, 5, 16)
  fn = functools.partial(
    value_and_gradients, jax.vmap(normalisation.batch_norm_elu)
  )
  first = fn(*arrays)
  for _ in range(5):
    chex.assert_trees_all_equal(fn(*arrays), first)
