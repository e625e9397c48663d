"""Measures how much each compiled kernel speeds up an update.

  make bench-kernels

Prints one JSON object for each kernel: `compiled_s` and `xla_s`, medians of the
processor time of an update with the kernel and with XLA in its place, in
seconds, and their ratio. There are ten experts, and batches of 32 images of
32x32x1. Convolutions are measured with the networks of `mnist.py`, which have
no normalisation; normalisation with those of `mnist_paper.py`, whose
convolutions are compiled in both forms. Updates are run in turns. Other work on
the machine changes processor time less than wall-clock time.
"""

import functools
import json
import statistics
import time
from unittest import mock

import jax
import optax

from benchmarks import measured
from icm_jax import competition, kernels, models
from icm_jax.kernels import normalisation

EXPERTS, BATCH, IMAGE, REPEATS = 10, 32, (32, 32, 1), 15


def make_setup(norm) -> competition.Setup:
  return competition.Setup(
    expert=models.from_linen(models.ConvExpert(norm=norm), IMAGE),
    discriminator=models.from_linen(models.ConvDiscriminator(), IMAGE),
    expert_tx=optax.adam(1e-3),
    discriminator_tx=optax.adam(1e-3),
  )


def without_normalisation():
  return mock.patch.object(
    normalisation, "batch_norm_elu", normalisation.plain_batch_norm_elu
  )


def measure(name, norm, without) -> None:
  setup = make_setup(norm)
  state = measured.make_state(setup, EXPERTS)
  batch = measured.make_batch(BATCH, IMAGE)

  def compile_step():
    step = functools.partial(competition.competition_step, setup=setup)
    return jax.jit(step).lower(state, batch).compile()

  updates = {"compiled_s": compile_step()}
  with without:
    updates["xla_s"] = compile_step()
  times = {form: [] for form in updates}
  for _ in range(REPEATS + 1):
    for form, update in updates.items():
      start = time.process_time()
      jax.block_until_ready(update(state, batch))
      times[form].append(time.process_time() - start)
  medians = {
    form: statistics.median(seconds[1:])  # The first is slower.
    for form, seconds in times.items()
  }
  row = {form: round(median, 3) for form, median in medians.items()}
  ratio = round(medians["xla_s"] / medians["compiled_s"], 2)
  print(json.dumps({"kernel": name, **row, "ratio": ratio}), flush=True)


def main() -> None:
  measure("convolution", "none", kernels.use("xla"))
  measure("normalisation", "batch", without_normalisation())


if __name__ == "__main__":
  main()
