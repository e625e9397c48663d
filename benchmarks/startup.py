"""Times a process from its start to its first finished update.

  make bench-startup

Prints one JSON object per line, for 10 experts, batch 32, 32x32x1: `cache`,
cold for an empty compile cache, or warm; `import_s`, `init_s`, `compile_s`,
`step_s`, and `total_s`, seconds from the start of the process to the end of its
first update; `identity_step_s`, the median of updates of the identity start
with batches of 8; `spread`, the range of `total_s` divided by its median.
Values are medians of processes that were run one after another.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

EXPERTS, BATCH, IMAGE, REPEATS = 10, 32, (32, 32, 1), 3


def child(started: float) -> dict[str, float]:
  """Runs in the process that is timed."""
  import jax

  from benchmarks import measured
  from icm_jax import competition

  times = [started, time.time()]
  setup = measured.make_setup(IMAGE)
  state = jax.block_until_ready(measured.make_state(setup, EXPERTS))
  batch = measured.make_batch(BATCH, IMAGE)
  times.append(time.time())
  compiled = measured.compile_step(
    lambda s, b: competition.competition_step(s, b, setup=setup), state, batch
  )
  times.append(time.time())
  state, _ = jax.block_until_ready(compiled(state, batch))
  times.append(time.time())

  copy = jax.jit(functools.partial(competition.pretrain_step, setup=setup))
  learning_E = jax.numpy.ones(EXPERTS, bool)
  x_BHWC = batch.transformed_BHWC[:8]
  seconds = []
  for _ in range(10):
    start = time.time()
    jax.block_until_ready(copy(state, x_BHWC, x_BHWC, learning_E))
    seconds.append(time.time() - start)
  names = ("import_s", "init_s", "compile_s", "step_s")
  row = {
    name: after - before
    for name, before, after in zip(names, times[:-1], times[1:], strict=True)
  }
  row["total_s"] = times[-1] - times[0]
  row["identity_step_s"] = statistics.median(seconds[1:])
  return row


def main() -> None:
  if len(sys.argv) > 1:
    print(json.dumps(child(float(sys.argv[1]))))
    return
  rows = {"cold": [], "warm": []}
  for _ in range(REPEATS):
    with tempfile.TemporaryDirectory() as cache:
      for name in rows:
        out = subprocess.run(
          [sys.executable, "-m", "benchmarks.startup", str(time.time())],
          env={
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
          },
          stdout=subprocess.PIPE,
          check=True,
        )
        rows[name].append(json.loads(out.stdout))
  for name, runs in rows.items():
    row = {
      key: round(statistics.median(run[key] for run in runs), 3)
      for key in runs[0]
    }
    totals = [run["total_s"] for run in runs]
    row["spread"] = round((max(totals) - min(totals)) / row["total_s"], 2)
    print(json.dumps({"cache": name, **row}), flush=True)


if __name__ == "__main__":
  main()
