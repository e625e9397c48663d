"""Times an answer of the demo, from what the pad sends to the markup.

  python -m benchmarks.demo --workdir=runs/mnist

Prints one JSON object per line: `mechanisms`, how many of them distort the
picture in a row; `wall_ms` and `cpu_ms`, medians of 30 answers after those that
compile; `slowest_ms`, the largest time of these by the clock. `cpu_ms` is the
time of all threads together, which does not depend on what else the machine
does. The browser and the server are not part of it. For a run on faces the
detector is, if it is installed.
"""

import base64
import io
import json
import statistics
import time

import numpy as np
import PIL.Image

import icm_jax
from experiments import demo, launch

ANSWERS, WARM_UP = 30, 3


def drawing() -> str:
  """A vertical stroke as the pad sends it."""
  array = np.zeros((280, 280, 4), np.uint8)
  array[40:240, 130:150] = 255
  buffer = io.BytesIO()
  PIL.Image.fromarray(array).save(buffer, format="PNG")
  data = base64.b64encode(buffer.getvalue()).decode()
  return f"drawing data:image/png;base64,{data}"


def main() -> None:
  examiner, _ = demo.examiner_of(icm_jax.load(launch.workdir()))
  page, value = demo.Page(examiner), drawing()
  for count in range(len(demo.SLOTS) + 1):
    choices = [
      x for name in list(examiner.mechanisms)[:count] for x in (name, 1)
    ]
    wall, cpu = [], []
    for _ in range(WARM_UP + ANSWERS):
      started, worked = time.perf_counter(), time.process_time()
      page.show(page.load(value), 0.5, *choices)
      wall.append(1e3 * (time.perf_counter() - started))
      cpu.append(1e3 * (time.process_time() - worked))
    row = {
      "mechanisms": count,
      "wall_ms": round(statistics.median(wall[WARM_UP:]), 1),
      "cpu_ms": round(statistics.median(cpu[WARM_UP:]), 1),
      "slowest_ms": round(max(wall[WARM_UP:]), 1),
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
  launch.define_workdir()
  launch.run(main)
