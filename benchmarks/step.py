"""Times an update: ours, with all losers, plain, PyTorch's, and the limit.

  make bench-step STEP="--experts=10 --batch=32 --image=32x32x1"

Prints one JSON object per line, for every number of experts, batch size and
image size: `experts`, `batch`, `image`; `ours_s`, `all_s`, `plain_s`,
`torch_s`, medians in seconds of updates that were run in turns: as `mnist.py`
makes them, with its remedies and its number of losers; without remedies and
with all losers, like the other two; in plain form; and PyTorch's. `limit_s` is
the floating point operations of an update with all losers divided by the rate
of a product of matrices in the same run; `..._spread` the interquartile range
divided by the median; `..._to_torch`, `all_to_plain` are ratios; `peak_gib` is
the peak memory of `all_s`. Values that were not measured are null: PyTorch's if
`--torch` names no Python that has it, and the plain form's if an update would
take more than `--plain_limit_s` seconds. The plain form is not repeated once it
has taken that long.
"""

import contextlib
import functools
import itertools
import json
import pathlib
import re
import statistics
import time

import jax
from absl import app, flags

from benchmarks import measured, torch_process
from experiments.configs import mnist
from icm_jax import competition, kernels
from icm_jax.training import networks

_EXPERTS = flags.DEFINE_list(
  "experts", ["1", "4", "10", "16", "32"], "Numbers of experts."
)
_BATCH = flags.DEFINE_list("batch", ["32", "128"], "Batch sizes.")
_IMAGE = flags.DEFINE_list("image", ["32x32x1", "64x64x3"], "Sizes HxWxC.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Updates of each form.", 1)
_TORCH = flags.DEFINE_string("torch", "", "A Python that has PyTorch.")
_PLAIN_LIMIT_S = flags.DEFINE_float(
  "plain_limit_s", 60.0, "Seconds for the plain form in one line."
)

MATRIX = 2_048
# Seconds of the plain form on two CPU cores, for one image of 32x32 pixels and
# one expert; an estimate to skip measurements that would take minutes.
PLAIN_S = 0.17


def make_default_setup(image) -> competition.Setup:
  """Makes the setup of `mnist.py`: with remedies, and its number of losers.

  Args:
    image: shape of an image.
  """
  return networks.make_setup(mnist.get_config(), image)


def compile_plain(setup, state, batch):
  """Compiles the plain form of the paper's step, with XLA's operations."""
  with kernels.use("xla"):
    return measured.compile_step(
      functools.partial(competition.paper_step, setup=setup), state, batch
    )


class PeakMemory(contextlib.AbstractContextManager):
  """Measures the peak memory of this process inside the block.

  Attributes:
    gib: the peak, set after the block; None if the system does not report it.
  """

  gib: float | None = None

  def __enter__(self):
    with contextlib.suppress(OSError):
      pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets it.
    return self

  def __exit__(self, *exception):
    with contextlib.suppress(OSError):
      status = pathlib.Path("/proc/self/status").read_text()
      kib = int(re.search(r"VmHWM:\s+(\d+)", status)[1])
      self.gib = round(kib / 2**20, 2)


class Runner:
  """Runs a compiled step on the states that it returns."""

  def __init__(self, compiled, setup, experts, batch):
    self._compiled, self._batch = compiled, batch
    self._state = measured.make_state(setup, experts)
    self.seconds()  # The first run is slower.

  def seconds(self) -> float:
    start = time.perf_counter()
    out = self._compiled(self._state, self._batch)
    self._state = out[0] if isinstance(out, tuple) else out
    jax.block_until_ready(self._state)
    return time.perf_counter() - start


def measure(experts, batch, image, reference):
  """Measures one line of output."""
  setup, data = measured.make_setup(image), measured.make_batch(batch, image)
  state = jax.eval_shape(lambda: measured.make_state(setup, experts))
  step = functools.partial(competition.competition_step, setup=setup)
  with PeakMemory() as peak:
    compiled = measured.compile_step(step, state, data)
    runs = {"all": Runner(compiled, setup, experts, data).seconds}
  default = make_default_setup(image)
  compiled = measured.compile_step(
    functools.partial(competition.competition_step, setup=default),
    jax.eval_shape(lambda: measured.make_state(default, experts)),
    data,
  )
  runs["ours"] = Runner(compiled, default, experts, data).seconds

  plain_s = PLAIN_S * experts * batch * image[0] * image[1] / 32**2
  if plain_s <= _PLAIN_LIMIT_S.value:
    compiled = compile_plain(setup, state, data)
    runs["plain"] = Runner(compiled, setup, experts, data).seconds
  if reference:
    reference.ask(do="make", experts=experts, batch=batch, image=image)
    runs["torch"] = lambda: reference.ask(do="step")["seconds"]
  matrix = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX))
  product = jax.jit(lambda a: a @ a)

  def multiply():
    start = time.perf_counter()
    jax.block_until_ready(product(matrix))
    return time.perf_counter() - start

  multiply()
  runs["matrix"] = multiply

  times = {name: [] for name in runs}
  for _ in range(_REPEATS.value):  # In turns, for equal conditions.
    for name, run in runs.items():
      if name != "plain" or sum(times[name]) <= _PLAIN_LIMIT_S.value:
        times[name].append(run())

  row = {"experts": experts, "batch": batch, "image": list(image)}
  for name in ("ours", "all", "plain", "torch"):
    row[f"{name}_s"] = row[f"{name}_spread"] = None
    if name in times:
      median = statistics.median(times[name])
      row[f"{name}_s"] = round(median, 4)
      if len(times[name]) > 1:
        low, _, high = statistics.quantiles(times[name], n=4)
        row[f"{name}_spread"] = round((high - low) / median, 2)
  rate = 2 * MATRIX**3 / statistics.median(times["matrix"])
  row["limit_s"] = round(measured.flops(experts, batch, image) / rate, 4)
  row["gflops_per_s"] = round(rate / 1e9)
  for own, other in (("ours", "torch"), ("all", "torch"), ("all", "plain")):
    ratio = row[f"{other}_s"] and row[f"{own}_s"] / row[f"{other}_s"]
    row[f"{own}_to_{other}"] = ratio and round(ratio, 3)
  row["peak_gib"] = peak.gib
  return row


def main(_) -> None:
  kernels.keep_memory()  # As `experiments.train` does.
  images = []
  for text in _IMAGE.value:
    if not re.fullmatch(r"\d+x\d+x\d+", text):
      raise app.UsageError(f"--image must be like 32x32x1; got {text!r}.")
    images.append(tuple(int(size) for size in text.split("x")))
  with contextlib.ExitStack() as stack:
    reference = None
    if _TORCH.value:
      reference = stack.enter_context(
        torch_process.TorchProcess(_TORCH.value, "torch_reference.py")
      )
    grid = itertools.product(images, _BATCH.value, _EXPERTS.value)
    for image, batch, experts in grid:
      row = measure(int(experts), int(batch), image, reference)
      print(json.dumps(row), flush=True)


if __name__ == "__main__":
  app.run(main)
