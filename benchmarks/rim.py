"""Times a step of the RIM cell: gathered, masked, and PyTorch's.

  make bench-rim RIM="--active=3 --size=100"

Prints one JSON object a line, for a forward pass and for one with its gradient:
`rims`, `active`, `size`, `batch`, `pass`; `masked_s`, `gathered_s`, `torch_s`,
medians in seconds of a step of the cell in a scan over `--steps`, run in turns;
`masked_to_gathered`, how many times faster gathered is than masked, and
`gathered_to_torch`. PyTorch is null where `--torch` names no Python that has
it. The cell has its default fields, LSTMs, without dropout.
"""

import contextlib
import json
import statistics
import time

import jax
from absl import app, flags
from flax import linen as nn

from benchmarks import torch_process
from icm_jax import models
from icm_jax.models import rim

_RIMS = flags.DEFINE_integer("rims", 6, "RIMs.", 1)
_ACTIVE = flags.DEFINE_integer("active", 3, "Active ones.", 1)
_SIZE = flags.DEFINE_integer("size", 100, "Units of each.", 1)
_BATCH = flags.DEFINE_integer("batch", 64, "Sequences.", 1)
_INPUTS = flags.DEFINE_integer("inputs", 100, "Features of the input.", 1)
_STEPS = flags.DEFINE_integer("steps", 20, "Of a sequence.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 15, "Runs of each.", 1)
_TORCH = flags.DEFINE_string("torch", "", "A Python that has PyTorch.")


def make_run(computation: str, gradient: bool):
  """A function that runs all steps, and tells how long it took."""
  layer = nn.RNN(
    models.RIMCell(
      rims=_RIMS.value,
      active=_ACTIVE.value,
      size=_SIZE.value,
      computation=computation,
    )
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
  """One line of the table."""
  runs = {name: make_run(name, gradient) for name in rim.COMPUTATIONS}
  fields = {
    "rims": _RIMS.value,
    "active": _ACTIVE.value,
    "size": _SIZE.value,
    "batch": _BATCH.value,
  }
  if reference:
    more = {"steps": _STEPS.value, "inputs": _INPUTS.value}
    more |= {"embed": models.RIMCell().embed, "gradient": gradient}
    reference.ask(do="make", **fields, **more)
    runs["torch"] = lambda: reference.ask(do="run")["seconds"]
  times = {name: [] for name in runs}
  for _ in range(_REPEATS.value):  # In turns, so that all see one machine.
    for name, run in runs.items():
      times[name].append(run() / _STEPS.value)
  median = {name: statistics.median(values) for name, values in times.items()}
  torch = median.get("torch")
  return fields | {
    "pass": "gradient" if gradient else "forward",
    "masked_s": round(median["masked"], 6),
    "gathered_s": round(median["gathered"], 6),
    "torch_s": torch and round(torch, 6),
    "masked_to_gathered": round(median["masked"] / median["gathered"], 3),
    "gathered_to_torch": torch and round(median["gathered"] / torch, 3),
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
