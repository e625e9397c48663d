"""Programs of updates that are compiled and timed on an accelerator."""

import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measured
from icm_jax import competition

# Seconds of one timed bundle of calls, and the number of bundles.
BUNDLE_S, BUNDLES = 0.08, 5


class Case(NamedTuple):
  """An update in one size and one form.

  Attributes:
    experts: number of experts.
    batch: images of a batch.
    image: shape of an image.
    dtype: dtype of the computation.
    form: mode of the map over experts.
    updates: updates of one dispatch, by `jax.lax.scan`.
    seeds: states that one update trains at once, by `jax.vmap`.
  """

  experts: int
  batch: int
  image: tuple[int, int, int]
  dtype: str
  form: str
  updates: int = 1
  seeds: int = 1


def make_program(case: Case) -> tuple[Callable[..., Any], tuple[Any, Any]]:
  """Returns a function of a state and batches, and the shapes of these."""
  setup = measured.make_setup(case.image, dtype=case.dtype, form=case.form)
  state = jax.eval_shape(lambda: measured.make_state(setup, case.experts))
  batch = jax.eval_shape(lambda: measured.make_batch(case.batch, case.image))
  run = functools.partial(competition.competition_step, setup=setup)
  if case.seeds > 1:
    run = jax.vmap(run)
    state, batch = _stacked((state, batch), case.seeds)
  if case.updates > 1:
    step = run

    def run(state, batches):
      state, metrics = jax.lax.scan(step, state, batches)
      return state, jax.tree.map(lambda a: a[-1], metrics)

    batch = _stacked(batch, case.updates)
  return run, (state, batch)


def _stacked(tree, size):
  return jax.tree.map(
    lambda a: jax.ShapeDtypeStruct((size, *a.shape), a.dtype), tree
  )


def lower(case: Case, platforms: tuple[str, ...] | None = None):
  """Traces and lowers the program of a case.

  Args:
    case: the case.
    platforms: platforms to lower for; None is the platform of this process.
  """
  run, shapes = make_program(case)
  traced = jax.jit(run, donate_argnums=0).trace(*shapes)
  return traced.lower(lowering_platforms=platforms)


def draw(tree: Any) -> Any:
  """Draws arrays of the given shapes, without a program to compile.

  Kernels are normal numbers, divided by the square root of their inputs; keys
  are those of seed 0; images are uniform; all other numbers are zero.
  """
  rng = np.random.default_rng(0)

  def parameter(path, a):
    if path[-1].key != "kernel":
      return np.zeros(a.shape, a.dtype)
    # Kernels are [..., 3, 3, C, F] or [..., C, F].
    inputs = a.shape[-2] * (9 if a.shape[-4:-2] == (3, 3) else 1)
    return rng.standard_normal(a.shape, np.float32) / math.sqrt(inputs)

  def other(a):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      return jnp.broadcast_to(jax.random.key(0), a.shape)
    return np.zeros(a.shape, a.dtype)

  if isinstance(tree, competition.Batch):
    drawn = jax.tree.map(lambda a: rng.random(a.shape, np.float32), tree)
  else:
    over = functools.partial(jax.tree_util.tree_map_with_path, parameter)
    drawn = jax.tree.map(other, tree).replace(
      experts_E=over(tree.experts_E), discriminator=over(tree.discriminator)
    )
  return jax.device_put(drawn)


def seconds(run: Callable[[int], None]) -> tuple[float, float]:
  """Times a function of a number of calls, which waits for all of them.

  Returns:
    The median of the seconds of one call, and the interquartile range divided
    by the median.
  """
  run(2)

  def mean(count):
    start = time.perf_counter()
    run(count)
    return (time.perf_counter() - start) / count

  count = min(max(round(BUNDLE_S / mean(1)), 1), 200)
  times = [mean(count) for _ in range(BUNDLES)]
  low, median, high = statistics.quantiles(times, n=4)
  return median, (high - low) / median


def measure(case: Case, compiled: Any, rates: dict[str, float]) -> dict:
  """Times a compiled case.

  Args:
    case: the case.
    compiled: its program.
    rates: result of `measure_rates`.

  Returns:
    Times and rates; `share_of_products` is the update's rate of operations
    divided by that of a product of large matrices, `share_of_limit` the least
    possible time of its convolutions, one by one, divided by its time.
  """
  _, shapes = make_program(case)
  state, batch = (draw(tree) for tree in shapes)
  state, metrics = compiled(state, batch)
  loss = float(jnp.ravel(metrics["loss/discriminator"])[-1])

  def run(count):
    nonlocal state, metrics
    for _ in range(count):
      state, metrics = compiled(state, batch)
    jax.block_until_ready((state, metrics))

  call_s, spread = seconds(run)
  update_s = call_s / case.updates
  work = measured.passes(case.experts, case.batch, case.image)
  flops = case.seeds * sum(count for count, _ in work)
  product, copy = rates[case.dtype], rates["copy"]
  size = jnp.dtype(case.dtype).itemsize
  limit_s = case.seeds * sum(
    max(count / product, numbers * size / copy) for count, numbers in work
  )
  memory = compiled.memory_analysis()
  return {
    "ms": update_s * 1e3,
    "spread": spread,
    "images_per_s": case.seeds * case.batch / update_s,
    "tflops_per_s": flops / update_s / 1e12,
    "share_of_products": flops / update_s / product,
    "share_of_limit": limit_s / update_s,
    "peak_gib": memory
    and (
      memory.temp_size_in_bytes
      + memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      - memory.alias_size_in_bytes
    )
    / 2**30,
    "first_loss": loss,
    "last_loss": float(jnp.ravel(metrics["loss/discriminator"])[-1]),
  }


def measure_rates(size: int) -> dict[str, float]:
  """Measures the rates of products and copies on this device.

  Args:
    size: sides of the matrices; a copied array has as many rows, of 8 times as
      many columns.

  Returns:
    Operations per second of products by dtype, and the bytes per second that a
    copy reads and writes (`copy`).
  """
  rng, rates = np.random.default_rng(0), {}

  def rate(function, array, work):
    compiled = jax.jit(function)

    def run(count):
      for _ in range(count):
        result = compiled(array)
      jax.block_until_ready(result)

    return work / seconds(run)[0]

  matrix = jnp.asarray(rng.standard_normal((size, size), np.float32))
  for dtype in ("float32", "bfloat16"):
    rates[dtype] = rate(lambda a: a @ a, matrix.astype(dtype), 2 * size**3)
  wide = jnp.tile(matrix, (1, 8))
  rates["copy"] = rate(lambda a: a + 1.0, wide, 2 * wide.nbytes)
  return rates
