"""The switch between compiled functions and XLA's operations."""

import jax
import jax.numpy as jnp
import pytest

from icm_jax import kernels, models, types


def primitives():
  """Traces an expert now, and returns its jaxpr as text."""
  network = models.make_expert("conv", (8, 8, 1), features=2, norm="none")
  params, stats = network.init(jax.random.key(0))

  @jax.jit
  def apply(params, x_BHWC):
    return network.apply(params, stats, x_BHWC, train=True)[0]

  return str(jax.make_jaxpr(apply)(params, jnp.zeros((1, 8, 8, 1))))


def test_kernels_are_used_unless_they_are_turned_off(monkeypatch):
  monkeypatch.delenv("ICM_JAX_KERNELS", raising=False)
  assert "icm_stack" in primitives()
  with kernels.use("xla"):
    assert "icm_stack" not in primitives()
    assert "conv_general_dilated" in primitives()
  assert "icm_stack" in primitives()


def test_the_argument_overrides_the_environment(monkeypatch):
  monkeypatch.setenv("ICM_JAX_KERNELS", "xla")
  assert "icm_stack" not in primitives()
  with kernels.use("auto"):
    assert "icm_stack" in primitives()


def test_a_function_is_traced_again_with_another_choice():
  traces = []
  fn = jax.jit(lambda x: traces.append(1) or x)
  fn(1.0)
  with kernels.use("xla"):
    fn(1.0)
  fn(1.0)
  assert len(traces) == 2


def test_unknown_forms_are_refused(monkeypatch):
  with pytest.raises(types.InputError, match="auto, xla; got 'cpu'"):
    kernels.use("cpu")
  monkeypatch.setenv("ICM_JAX_KERNELS", "none")
  with pytest.raises(types.InputError, match="ICM_JAX_KERNELS.*got 'none'"):
    primitives()
