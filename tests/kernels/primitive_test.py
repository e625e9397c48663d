"""Kernels behave as their plain forms under all transformations."""

import functools
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from icm_jax import competition, kernels
from icm_jax.kernels import convolution, normalisation
from icm_jax.kernels.convolution import Layer

LAYERS = (Layer(3, halve=True), Layer(2, elu=False))


def plain_stack(x, parameters):
  return convolution.plain_stack(x, parameters, LAYERS)


def stack(x, parameters):
  return convolution.stack(x, parameters, LAYERS)


def batch_norm(form, x, parameters):
  return form(x, parameters["scale"], parameters["bias"])[0]


# Each case has a kernel, its plain form, and a function that draws parameters.
CASES = {
  "stack": (
    stack,
    plain_stack,
    lambda key: convolution.init_parameters(key, 2, LAYERS),
  ),
  "batch norm": (
    functools.partial(batch_norm, normalisation.batch_norm_elu),
    functools.partial(batch_norm, normalisation.plain_batch_norm_elu),
    lambda key: {
      "scale": jax.random.normal(key, (2,)),
      "bias": jnp.full(2, 0.1),
    },
  ),
}


def objective(fn):
  return lambda *args: jnp.sum(jnp.sin(fn(*args)))


def forward_mode(fn):
  return lambda x, p: jax.jvp(fn, (x, p), jax.tree.map(jnp.cos, (x, p)))


def hessian(fn):
  def of_bias(x, p):
    name = min(p)
    rest = {key: value for key, value in p.items() if key != name}
    return jax.hessian(lambda part: objective(fn)(x, {name: part, **rest}))(
      p[name]
    )

  return of_bias


def gradient_of_gradient(fn):
  def size(x, p):
    gradients = jax.grad(objective(fn), argnums=(0, 1))(x, p)
    return sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients))

  return jax.grad(size, argnums=(0, 1))


def forward_over_reverse(fn):
  gradient = jax.grad(objective(fn), argnums=1)
  return lambda x, p: jax.jvp(
    lambda p: gradient(x, p), (p,), (jax.tree.map(jnp.cos, p),)
  )


def assert_same(kernel, plain, *args):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
    jax.jit(kernel)(*args),
    jax.jit(plain)(*args),
  )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
  "derivative",
  [forward_mode, hessian, gradient_of_gradient, forward_over_reverse],
)
def test_derivatives_equal_those_of_the_plain_form(derivative, name):
  kernel, plain, init = CASES[name]
  x_BHWC = jax.random.normal(jax.random.key(0), (2, 5, 4, 2))
  parameters = init(jax.random.key(1))
  assert_same(derivative(kernel), derivative(plain), x_BHWC, parameters)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_mapped_experts_equal_those_of_the_plain_form(name):
  kernel, plain, init = CASES[name]
  x_BHWC = jax.random.normal(jax.random.key(0), (2, 5, 4, 2))
  parameters_E = jax.vmap(init)(jax.random.split(jax.random.key(1), 3))

  def gradient(fn):
    over_experts = jax.vmap(fn, (None, 0))
    return jax.grad(objective(over_experts), argnums=(0, 1))

  # Experts are mapped first, then seeds.
  assert_same(gradient(kernel), gradient(plain), x_BHWC, parameters_E)
  x_SBHWC = jnp.stack([x_BHWC, -x_BHWC])
  over_seeds = lambda fn: jax.vmap(gradient(fn), (0, None))
  assert_same(over_seeds(kernel), over_seeds(plain), x_SBHWC, parameters_E)


@pytest.mark.parametrize("name", CASES)
def test_only_programs_for_a_cpu_call_the_library(name):
  kernel, _, init = CASES[name]
  x_BHWC = jnp.zeros((2, 5, 4, 2))
  parameters_E = jax.vmap(init)(jax.random.split(jax.random.key(1), 2))
  gradient = jax.grad(objective(jax.vmap(kernel, (None, 0))), argnums=(0, 1))
  traced = jax.jit(gradient).trace(x_BHWC, parameters_E)
  for platform in ("cuda", "tpu"):
    assert "Icm" not in traced.lower(lowering_platforms=(platform,)).as_text()
  calls = traced.lower(lowering_platforms=("cpu",)).as_text().count("@Icm")
  assert calls == (2 if kernels.is_compiled() else 0)


def restore(x_BHWC, parameters_E):
  return jax.vmap(stack, (None, 0))(x_BHWC, parameters_E)


def test_an_exported_program_runs_without_this_package(tmp_path):
  parameters_E = jax.vmap(CASES["stack"][2])(
    jax.random.split(jax.random.key(1), 2)
  )
  (batch,) = jax.export.symbolic_shape("batch")
  exported = jax.export.export(
    jax.jit(restore), platforms=["cpu", "cuda", "tpu"]
  )(
    jax.ShapeDtypeStruct((batch, 6, 4, 2), jnp.float32),
    jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), parameters_E
    ),
  )
  (tmp_path / "restore").write_bytes(exported.serialize())
  x_BHWC = jax.random.normal(jax.random.key(0), (3, 6, 4, 2))
  leaves, structure = jax.tree.flatten((x_BHWC, parameters_E))
  np.savez(tmp_path / "arguments", *leaves)
  program = """
    import sys

    import jax
    import numpy as np

    exported = jax.export.deserialize(open("restore", "rb").read())
    arrays = np.load("arguments.npz")
    leaves = [arrays[name] for name in arrays.files]
    args, _ = jax.tree.unflatten(exported.in_tree, leaves)
    np.save("result", exported.call(*args))
    assert not any(name.startswith("icm_jax") for name in sys.modules)
  """
  run_elsewhere(program, tmp_path)
  np.testing.assert_allclose(
    np.load(tmp_path / "result.npy"),
    jax.jit(restore)(x_BHWC, parameters_E),
    atol=1e-5,
  )
  assert structure == exported.in_tree.children()[0]


def test_devices_of_a_mesh_compute_their_own_part(tmp_path):
  program = """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from icm_jax.kernels import convolution

    layers = (convolution.Layer(3, halve=True), convolution.Layer(2, False))
    x = jax.random.normal(jax.random.key(0), (4, 6, 4, 2))
    p = convolution.init_parameters(jax.random.key(1), 2, layers)
    p2 = jax.vmap(
      lambda key: convolution.init_parameters(key, 2, layers)
    )(jax.random.split(jax.random.key(2)))
    mesh = jax.make_mesh(
      (2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    P = jax.P

    def close(a, b):
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        a, b,
      )

    def gradient(stack):
      def fn(x, p):
        return jax.grad(
          lambda x, p: jnp.sum(jnp.sin(stack(x, p, layers))), argnums=(0, 1)
        )(x, p)
      return fn

    expected = jax.jit(gradient(convolution.plain_stack))(x, p)
    # Devices have their own images and share parameters: gradients are summed.
    apart = jax.shard_map(
      gradient(convolution.stack), mesh=mesh, in_specs=(P("d"), P()),
      out_specs=(P("d"), P()),
    )
    close(jax.jit(apart)(x, p), expected)
    # Devices have their own seeds.
    seeds = lambda stack: jax.vmap(gradient(stack))
    apart = jax.shard_map(
      seeds(convolution.stack), mesh=mesh, in_specs=P("d"), out_specs=P("d")
    )
    x2 = jnp.stack([x, -x])
    expected_2 = jax.jit(seeds(convolution.plain_stack))(x2, p2)
    close(jax.jit(apart)(x2, p2), expected_2)
    # If XLA partitions by itself, the result is right, but not faster.
    split = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("d")))
    close(jax.jit(gradient(convolution.stack))(split, p), expected)
  """
  run_elsewhere(program, tmp_path, XLA_FLAGS=TWO_DEVICES)


TWO_DEVICES = (
  "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
)


def run_elsewhere(program, path, **environment):
  """Runs a program in a process of its own, with this repository's package."""
  root = str(pathlib.Path(kernels.__file__).parents[2])
  finished = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program)],
    cwd=path,
    env={
      **os.environ,
      "PYTHONPATH": root,
      "JAX_PLATFORMS": "cpu",
      **environment,
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", CASES)
def test_strict_promotion_and_64_bits(name, dtype):
  kernel, plain, init = CASES[name]
  x_BHWC = jax.random.normal(jax.random.key(0), (2, 5, 4, 2))
  with jax.numpy_dtype_promotion("strict"), jax.enable_x64(True):
    args = (x_BHWC, init(jax.random.key(1)))
    args = jax.tree.map(lambda a: a.astype(dtype), args)
    gradient = lambda fn: jax.grad(objective(fn), argnums=(0, 1))
    assert_same(gradient(kernel), gradient(plain), *args)
    leaves = jax.tree.leaves(jax.eval_shape(gradient(kernel), *args))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}


def test_a_whole_update_can_be_differentiated(
  make_setup, make_state, make_batch
):
  # Adam's first update is a gradient over its own size, which amplifies the
  # rounding of small ones, more on some machines than on others.
  setup = make_setup()._replace(expert_tx=optax.sgd(1e-2))
  state, batch = make_state(setup, 2), make_batch(2)

  def loss_after(x_BHWC):
    moved, _ = competition.competition_step(
      state, batch._replace(transformed_BHWC=x_BHWC), setup=setup
    )
    return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(moved.experts_E))

  gradient_after = jax.jit(jax.grad(loss_after))
  gradient = gradient_after(batch.transformed_BHWC)
  with kernels.use("xla"):
    expected = gradient_after(batch.transformed_BHWC)
  assert jnp.any(expected)
  np.testing.assert_allclose(
    gradient, expected, rtol=1e-3, atol=1e-4 * jnp.abs(expected).max()
  )
