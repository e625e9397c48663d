"""Times a step of the RIM cell, ours and PyTorch's.

  make bench-rim RIM="--active=3 --size=100"

Prints one JSON object per line, for a forward pass and for one with its
gradient: `rims`, `active`, `size`, `batch`, `pass`; `ours_s` and `torch_s`,
medians in seconds of a step of the cell in a scan over `--steps`, where the two
run in turns; and their ratio `ours_to_torch`. Values of PyTorch are null unless
`--torch` names a Python that has it. The cell has its default fields and no
dropout.
"""

import contextlib
import json
import statistics
import time

import jax
from absl import app, flags
from flax import linen as nn

from benchmarks import torch_process
from icm_jax import rim

_RIMS = flags.DEFINE_integer("rims", 6, "Number of RIMs.", 1)
_ACTIVE = flags.DEFINE_integer("active", 3, "Number of active RIMs.", 1)
_SIZE = flags.DEFINE_integer("size", 100, "Units of a RIM.", 1)
_BATCH = flags.DEFINE_integer("batch", 64, "Sequences in a batch.", 1)
_INPUTS = flags.DEFINE_integer("inputs", 100, "Features of the input.", 1)
_STEPS = flags.DEFINE_integer("steps", 20, "Steps of a sequence.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 15, "Timed runs.", 1)
_TORCH = flags.DEFINE_string("torch", "", "A Python that has PyTorch.")


def make_run(gradient: bool):
  """Returns a function that runs all steps and returns the seconds it took."""
  layer = nn.RNN(
    rim.RIMCell(rims=_RIMS.value, active=_ACTIVE.value, size=_SIZE.value)
  )
  shape = (_BATCH.value, _STEPS.value, _INPUTS.value)
  x_BTF = jax.random.normal(jax.random.key(0), shape)
  params = jax.jit(layer.init)(jax.random.key(1), x_BTF)

  def value(params):
    out_BTD = layer.apply(params, x_BTF)
    return (out_BTD**2).sum()

  function = jax.grad(value) if gradient else value
  compiled = jax.jit(function).lower(params).compile()

  def run():
    start = time.perf_counter()
    jax.block_until_ready(compiled(params))
    return time.perf_counter() - start

  run()  # The first run is slower.
  return run


def measure(gradient: bool, reference: torch_process.TorchProcess | None):
  """Returns one line of output."""
  runs = {"ours": make_run(gradient)}
  fields = {
    "rims": _RIMS.value,
    "active": _ACTIVE.value,
    "size": _SIZE.value,
    "batch": _BATCH.value,
  }
  if reference:
    more = {"steps": _STEPS.value, "inputs": _INPUTS.value}
    more |= {"embed": rim.RIMCell().embed, "gradient": gradient}
    reference.ask(do="make", **fields, **more)
    runs["torch"] = lambda: reference.ask(do="run")["seconds"]
  times = {name: [] for name in runs}
  for _ in range(_REPEATS.value):  # In turns, so that the load is the same.
    for name, run in runs.items():
      times[name].append(run() / _STEPS.value)
  median = {name: statistics.median(values) for name, values in times.items()}
  torch = median.get("torch")
  return fields | {
    "pass": "gradient" if gradient else "forward",
    "ours_s": round(median["ours"], 6),
    "torch_s": torch and round(torch, 6),
    "ours_to_torch": torch and round(median["ours"] / torch, 3),
  }


def main(_) -> None:
  with contextlib.ExitStack() as stack:
    reference = None
    if _TORCH.value:
      reference = stack.enter_context(
        torch_process.TorchProcess(_TORCH.value, "torch_rim.py")
      )
    for gradient in (False, True):
      print(json.dumps(measure(gradient, reference)), flush=True)


if __name__ == "__main__":
  app.run(main)
