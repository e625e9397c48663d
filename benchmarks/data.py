"""Times the preparation of pictures and the reading of batches.

  python -m benchmarks.data

Prints one JSON object: seconds to decode 3,200 synthetic JPEG files of CelebA's
size to 64x64 RGB; images per second in random batches of 128 from the array on
disk, and their ratio to those from a copy in memory (medians); and, for the
embedded digits, milliseconds to put a batch of 32 distorted and 32 canonical
images on the device, milliseconds of an update of 10 experts, and the ratio of
the latter to the former.
"""

import functools
import json
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from benchmarks import measured
from icm_jax import competition, mechanisms
from icm_jax.data import problem, sources

PICTURES, SHAPE, BATCH, BATCHES = 3_200, (218, 178, 3), 128, 200


def main() -> None:
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name, "pictures")
    folder.mkdir()
    # Files of coarse noise are about as large as files of faces.
    for number in range(PICTURES):
      coarse = rng.integers(0, 256, (SHAPE[0] // 8, SHAPE[1] // 8, 3), np.uint8)
      image = PIL.Image.fromarray(coarse).resize((SHAPE[1], SHAPE[0]))
      image.save(folder / f"{number:06}.jpg", quality=90)
    start = time.perf_counter()
    data = sources.load(
      f"folder:{folder}",
      image_size=64,
      view={"crop": 148},
      data_dir=str(pathlib.Path(name, "data")),
    )
    prepare_s = time.perf_counter() - start
    made = problem.make_problem(data, seed=0)
    images = data.images
    in_memory = made._replace(
      images=images._replace(image_NHWC=np.array(images.image_NHWC))
    )
    disk, memory = rate(made), rate(in_memory)
  batch_s, step_s = pipeline_and_step()
  print(
    json.dumps(
      {
        "pictures": PICTURES,
        "prepare_s": round(prepare_s, 2),
        "read_images_per_s": round(disk),
        "ratio_to_memory": round(disk / memory, 2),
        "digits_batch_ms": round(batch_s * 1e3, 3),
        "digits_step_ms": round(step_s * 1e3, 1),
        "pipeline_times_faster": round(step_s / batch_s, 1),
      }
    )
  )


def rate(made: problem.Problem) -> float:
  """Returns images per second in random batches from both sides."""
  seconds = []
  for step in range(BATCHES):
    start = time.perf_counter()
    problem.draw_raw(made, seed=0, step=step, batch_size=BATCH)
    seconds.append(time.perf_counter() - start)
  return 2 * BATCH / statistics.median(seconds)


def pipeline_and_step() -> tuple[float, float]:
  """Returns seconds of a batch of digits and of an update, timed in turns."""
  data = sources.load("mnist_5k", image_size=32)
  digits = problem.make_problem(data, seed=0)
  paper = dict(mechanisms.PRESETS["paper"])
  preset = mechanisms.by_names(paper.pop("names"), paper)
  key = jax.random.key(0)
  distort = jax.jit(
    lambda step, raw: problem.make_batch(key, step, raw, preset)
  )
  setup = measured.make_setup((32, 32, 1))
  state = measured.make_state(setup, 10)
  update = jax.jit(functools.partial(competition.competition_step, setup=setup))
  seconds = ([], [])
  for step in range(11):
    start = time.perf_counter()
    raw = problem.draw_raw(digits, seed=0, step=step, batch_size=32)
    batch = jax.block_until_ready(distort(jnp.int32(step), raw))
    seconds[0].append(time.perf_counter() - start)
    start = time.perf_counter()
    jax.block_until_ready(update(state, batch))
    seconds[1].append(time.perf_counter() - start)
  return tuple(statistics.median(s[1:]) for s in seconds)


if __name__ == "__main__":
  main()
