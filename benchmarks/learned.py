"""Times what a user waits for: opening a run, and restoring a folder.

  make mnist && python -m benchmarks.learned --workdir=runs/mnist

Prints two JSON objects. `load`: seconds of a process of its own from its start
to the first restored batch of 7 images, with a warm compile cache; `restore`:
seconds in which `experiments.restore` reads 1,000 pictures of 64x64 pixels from
a folder, restores, writes and lists them, as a process of its own. `cpu_s` is
the CPU time of the same process, which other programs on the machine change
less. Medians; `spread` is the range of `wall_s` divided by its median.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL.Image

PICTURES, SIDE, BATCH = 1_000, 64, 7
_LOAD = """
import sys
import numpy as np
import icm_jax
learned = icm_jax.load(sys.argv[1])
images = np.zeros(({batch}, *learned.shape_HWC), np.uint8)
learned.restore(images)
"""


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--workdir", default="runs/mnist")
  parser.add_argument("--repeats", type=int, default=5)
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "cache"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    _write_pictures(root / "pictures")
    load = ["-c", _LOAD.format(batch=BATCH), arguments.workdir]
    restore = [
      *("-m", "experiments.restore", f"--workdir={arguments.workdir}"),
      *(f"--images={root / 'pictures'}", f"--out={root / 'out'}"),
      "--overwrite",
    ]
    for what, command in (("load", load), ("restore", restore)):
      _seconds(command)  # The cache is warm from here on.
      runs = [_seconds(command) for _ in range(arguments.repeats)]
      walls, cpus = zip(*runs, strict=True)
      wall_s = statistics.median(walls)
      row = {
        "what": what,
        "wall_s": round(wall_s, 2),
        "cpu_s": round(statistics.median(cpus), 2),
        "spread": round((max(walls) - min(walls)) / wall_s, 2),
      }
      print(json.dumps(row), flush=True)
    written = len(list((root / "out" / "pictures").iterdir()))
    assert written == PICTURES, written


def _write_pictures(folder: pathlib.Path) -> None:
  """Writes pictures of coarse noise, whose files are as large as of faces."""
  rng = np.random.default_rng(0)
  folder.mkdir()
  for number in range(PICTURES):
    coarse = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)
    image = PIL.Image.fromarray(coarse).resize((SIDE, SIDE))
    image.save(folder / f"{number:04}.jpg", quality=90)


def _seconds(arguments) -> tuple[float, float]:
  """Wall and CPU seconds of a Python process, from its start to its end."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  start = time.perf_counter()
  subprocess.run(
    [sys.executable, *arguments], check=True, stderr=subprocess.DEVNULL
  )
  wall_s = time.perf_counter() - start
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  cpu_s = sum(
    getattr(after, kind) - getattr(before, kind)
    for kind in ("ru_utime", "ru_stime")
  )
  return wall_s, cpu_s


if __name__ == "__main__":
  main()
