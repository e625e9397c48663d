import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import kernels, types
from icm_jax.kernels import convolution
from icm_jax.kernels.convolution import Layer

needs_compiled = pytest.mark.skipif(
  not kernels.is_compiled(),
  reason="nothing was compiled when the package was installed",
)

# Layers with few and many channels on either side, odd sizes, all followers.
STACKS = {
  "few to many": ((2, 8, 8, 1), (Layer(16), Layer(1, elu=False))),
  "odd sides": ((3, 7, 9, 8), (Layer(24),)),
  "halved odd": ((2, 5, 7, 3), (Layer(10, halve=True), Layer(3, elu=False))),
  "not by eight": ((2, 6, 5, 20), (Layer(12, halve=True), Layer(7, False))),
  "few to few": ((1, 3, 3, 2), (Layer(2),)),
  "narrow": ((1, 4, 2, 1), (Layer(1, elu=False), Layer(5), Layer(4))),
  "halved last": ((2, 4, 4, 8), (Layer(8, elu=False, halve=True),)),
  "many images": ((35, 4, 4, 8), (Layer(8),)),
  # Channels that fill vectors of 16 floats, where a machine has these.
  "sixteens": ((3, 9, 13, 1), (Layer(32, halve=True), Layer(16), Layer(3))),
  "many sixteens": ((18, 4, 20, 16), (Layer(16), Layer(48, elu=False))),
  "many tiles": ((1, 26, 24, 8), (Layer(8), Layer(16))),
  "five, then three tiles": (
    (2, 4, 20, 8),
    (Layer(8, halve=True), Layer(16)),
  ),
}


def draw(rng, *shape):
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def draw_parameters(rng, channels, layers, groups=()):
  parameters = {}
  names = convolution.layer_names(len(layers))
  for name, layer in zip(names, layers, strict=True):
    kernel = draw(rng, *groups, 3, 3, channels, layer.features)
    bias = draw(rng, *groups, layer.features)
    parameters[name] = {"kernel": kernel / np.sqrt(9 * channels), "bias": bias}
    channels = layer.features
  return parameters


def one_layer(kernel, bias):
  return {"layer_0": {"kernel": kernel, "bias": bias}}


def value_and_gradients(fn, x, parameters):
  """Returns the gradient for a cotangent that differs between outputs."""

  def objective(x, parameters):
    y = fn(x, parameters)
    return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape))), y

  run = jax.jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))
  (_, y), gradients = run(x, parameters)
  return y, gradients


def assert_near(actual, expected):
  """Compares to 1e-5 of the largest value, the rounding of long sums."""
  largest = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * largest)


def assert_same(fn, plain, x, parameters):
  expected = value_and_gradients(plain, x, parameters)
  jax.tree.map(assert_near, value_and_gradients(fn, x, parameters), expected)
  # Without gradients no values are kept; the result must be the same.
  assert_near(jax.jit(fn)(x, parameters), expected[0])


@needs_compiled
@pytest.mark.parametrize("name", STACKS)
def test_compiled_stacks_equal_those_of_xla(name):
  shape, layers = STACKS[name]
  rng = np.random.default_rng(0)
  assert_same(
    functools.partial(convolution.stack, layers=layers),
    functools.partial(convolution.plain_stack, layers=layers),
    draw(rng, *shape),
    draw_parameters(rng, shape[-1], layers),
  )


@needs_compiled
@pytest.mark.parametrize(
  "axes",
  [((0, 0),), ((None, 0),), ((0, None),), ((0, None), (None, 0))],
  ids=["both", "shared images", "shared kernels", "either"],
)
def test_mapped_stacks_equal_those_of_xla(axes):
  layers = (Layer(8, halve=True), Layer(2, elu=False))
  rng = np.random.default_rng(0)
  images_mapped = [images for images, _ in axes].count(0)
  kernels_mapped = [kernels for _, kernels in axes].count(0)
  x = draw(rng, *[3] * images_mapped, 2, 6, 6, 1)
  parameters = draw_parameters(rng, 1, layers, (3,) * kernels_mapped)

  def mapped(stack):
    fn = functools.partial(stack, layers=layers)
    for axis in axes:
      fn = jax.vmap(fn, in_axes=axis)
    return fn

  assert_same(
    mapped(convolution.stack), mapped(convolution.plain_stack), x, parameters
  )


@needs_compiled
def test_results_are_bit_identical_again_and_again():
  layers = (Layer(16), Layer(16, halve=True), Layer(1, elu=False))
  rng = np.random.default_rng(0)
  x, parameters = draw(rng, 50, 8, 8, 1), draw_parameters(rng, 1, layers)
  fn = functools.partial(convolution.stack, layers=layers)
  first = value_and_gradients(fn, x, parameters)
  for _ in range(5):
    chex.assert_trees_all_equal(value_and_gradients(fn, x, parameters), first)


@pytest.mark.parametrize("features", [1, 8])
def test_nan_stays_nan(features):
  layers = (Layer(features), Layer(1, elu=False))
  parameters = draw_parameters(np.random.default_rng(0), 1, layers)
  x_BHWC = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
  y_BHWC = convolution.stack(x_BHWC, parameters, layers)
  assert jnp.isnan(y_BHWC[0, 1, 1, 0])


@needs_compiled
@pytest.mark.parametrize("value", [-1e4, -200.0, -30.0, -1.0, -1e-3, 3.0, 1e4])
def test_elu_of_large_and_small_values(value):
  layers = (Layer(8),)
  parameters = one_layer(jnp.zeros((3, 3, 1, 8)), jnp.full(8, value))
  y_BHWC = convolution.stack(jnp.zeros((1, 2, 2, 1)), parameters, layers)
  np.testing.assert_allclose(y_BHWC, jax.nn.elu(value), rtol=1e-6, atol=3e-7)


def test_other_dtypes_are_convolved_by_xla():
  layers = (Layer(2, halve=True),)
  x_BHWC = jnp.ones((1, 4, 4, 1), "bfloat16")
  parameters = one_layer(
    jnp.ones((3, 3, 1, 2), "bfloat16"), jnp.ones(2, "bfloat16")
  )
  jaxpr = jax.make_jaxpr(lambda *a: convolution.stack(*a, layers))(
    x_BHWC, parameters
  )
  assert "conv_general_dilated" in str(jaxpr)
  assert jaxpr.out_avals[0].dtype == "bfloat16"


@pytest.mark.parametrize(
  ("shape", "kernel", "message"),
  [
    ((4, 4, 1), (3, 3, 1, 2), "Expected images"),
    ((1, 4, 4, 2), (3, 3, 1, 2), r"kernel \(3, 3, 2, 2\).*got \(3, 3, 1, 2\)"),
    ((1, 4, 4, 1), (5, 5, 1, 2), r"kernel \(3, 3, 1, 2\).*got \(5, 5, 1, 2\)"),
  ],
)
def test_shapes_that_do_not_fit_are_refused(shape, kernel, message):
  parameters = one_layer(jnp.zeros(kernel), jnp.zeros(2))
  with pytest.raises(types.InputError, match=message):
    convolution.stack(jnp.zeros(shape), parameters, (Layer(2),))


def test_kernels_start_with_the_variance_of_their_inputs():
  layers = (Layer(64), Layer(32))
  parameters = convolution.init_parameters(jax.random.key(0), 16, layers)
  for name, channels in ("layer_0", 16), ("layer_1", 64):
    kernel, bias = parameters[name]["kernel"], parameters[name]["bias"]
    assert kernel.shape[2] == channels
    np.testing.assert_allclose(kernel.std(), (9 * channels) ** -0.5, rtol=0.05)
    np.testing.assert_allclose(kernel.mean(), 0.0, atol=0.01)
    assert not bias.any()


def test_names_of_layers_sort_in_their_order():
  names = convolution.layer_names(12)
  assert names == sorted(names)
  assert names[:2] == ["layer_00", "layer_01"]
  assert convolution.layer_names(2) == ["layer_0", "layer_1"]


def test_parameters_of_other_layers_are_refused():
  parameters = {"layer_1": {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}}
  with pytest.raises(types.InputError, match="of layer_0; got layer_1"):
    convolution.stack(jnp.zeros((1, 4, 4, 1)), parameters, (Layer(2),))
