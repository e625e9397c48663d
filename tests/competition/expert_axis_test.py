"""The leading expert axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import kernels, types
from icm_jax.competition import expert_axis
from icm_jax.kernels import convolution


@pytest.mark.parametrize("mode", expert_axis.FORMS)
def test_map_leading_equals_vmap(mode):
  fn = lambda a, b, c: {"sum": a + b * c["x"]}
  args = (jnp.arange(3.0), jnp.float32(2.0), {"x": jnp.arange(3.0) + 1})
  out = expert_axis.map_leading(fn, (0, None, 0), mode=mode)(*args)
  np.testing.assert_allclose(out["sum"], [2.0, 5.0, 8.0])


def test_xlas_convolutions_are_unrolled_on_cpu():
  layers = (convolution.Layer(2),)
  x_EBHWC = jnp.zeros((3, 1, 4, 4, 1))
  layer = {"kernel": jnp.zeros((3, 3, 1, 2)), "bias": jnp.zeros(2)}
  parameters = {"layer_0": layer}

  def resolve(mode, stack):
    fn = jax.jit(lambda p, x: stack(x, p, layers))
    return expert_axis.resolve(mode, fn, (None, 0), parameters, x_EBHWC)

  assert resolve("auto", convolution.plain_stack) == "unroll"
  assert resolve("auto", lambda x, *_: x) == "vmap"
  assert resolve("vmap", convolution.plain_stack) == "vmap"
  way = "vmap" if kernels.is_compiled() else "unroll"
  assert resolve("auto", convolution.stack) == way


def test_convolutions_of_experts_are_unrolled_on_accelerators(monkeypatch):
  monkeypatch.setattr(expert_axis.jax, "default_backend", lambda: "gpu")
  layers = (convolution.Layer(2),)
  layer = {"kernel": jnp.zeros((3, 3, 3, 1, 2)), "bias": jnp.zeros((3, 2))}
  args = {"layer_0": layer}, jnp.zeros((1, 4, 4, 1))
  for stack in (convolution.stack, convolution.plain_stack):
    fn = lambda p, x, stack=stack: stack(x, p, layers)
    assert expert_axis.resolve("auto", fn, (0, None), *args) == "unroll_blocks"
  assert expert_axis.resolve("auto", lambda _, x: x, (0, None), *args) == "vmap"
  # The discriminator's kernels are shared, so that its convolutions stay whole.
  assert expert_axis.of_discriminator("auto") == "vmap"


def test_unknown_maps_are_refused():
  with pytest.raises(types.InputError, match="auto, unroll, vmap.*'scan'"):
    expert_axis.check("scan")
