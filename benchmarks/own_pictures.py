"""How many pictures of one's own it takes until experts specialise.

  python -m benchmarks.own_pictures --data=orl_faces --counts=50,100 --seeds=0

Draws folders of clean and of distorted pictures from an embedded data set: as
many clean ones as distorted ones, of which a third each is inverted, dark and
shifted. No picture is in both folders, and others are held back. A run of
experiments/configs/own_pictures.py learns from the folders. Prints one JSON
object per run: `clean` and `distorted`, numbers of pictures; `seed`, of the
pictures and of the run; `steps`; `found`, steps after which each mechanism kept
an expert of its own, null without one; `psnr_db`, the mean PSNR of held-back
pictures, distorted and restored, in dB; `cpu_s`, the process's seconds of CPU
time.
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax
import numpy as np
import PIL.Image

import icm_jax
from experiments.configs import own_pictures
from icm_jax import mechanisms
from icm_jax.data import sources
from icm_jax.training import image_run

NAMES = ("invert", "low_light", "right")
HELD_BACK = 60


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--data", default="orl_faces")
  parser.add_argument("--counts", default="25,50,100,170")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--set", action="append", default=[])
  arguments = parser.parse_args()
  for count in map(int, arguments.counts.split(",")):
    for seed in map(int, arguments.seeds.split(",")):
      row = measure(arguments.data, count, seed, arguments.set)
      print(json.dumps(row), flush=True)


def measure(data: str, count: int, seed: int, changes) -> dict:
  """Trains on `count` clean and `count` distorted pictures."""
  size = own_pictures.get_config().data.image_size
  images_NHWC = sources.load(data, image_size=size).images.image_NHWC
  ids = np.random.default_rng(seed).permutation(len(images_NHWC))
  clean, others, held = np.split(ids, [count, 2 * count])
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    _write(root / "clean", images_NHWC[clean])
    distorted = _distort(images_NHWC[others], seed)
    for number, mechanism in enumerate(NAMES):
      of_one = distorted[number :: len(NAMES)]
      _write(root / "distorted" / mechanism, of_one)
    config = own_pictures.get_config()
    config.update_from_flattened_dict(
      {
        "seed": seed,
        "data.name": f"folders:{root / 'clean'},{root / 'distorted'}",
        "data.dir": str(root / "data"),
        "data.channels": images_NHWC.shape[-1],
        **{k: json.loads(v) for k, v in (c.split("=") for c in changes)},
      }
    )
    start = time.process_time()
    result = image_run.train(config, root / "run")
    cpu_s = time.process_time() - start
    learned = icm_jax.load(root / "run")
  held_NHWC = images_NHWC[held[:HELD_BACK]]
  bad_NHWC = _distort(held_NHWC, seed + 1)
  good_NHWC = learned.restore(bad_NHWC).restored_BHWC
  return {
    "data": data,
    "clean": len(clean),
    "distorted": len(others),
    "seed": seed,
    "steps": result["steps"],
    "found": result["found_steps"],
    "psnr_db": [_psnr_db(held_NHWC, x) for x in (bad_NHWC / 255, good_NHWC)],
    "cpu_s": round(cpu_s, 1),
  }


def _write(folder: pathlib.Path, images_NHWC: np.ndarray) -> None:
  folder.mkdir(parents=True)
  for number, x_HWC in enumerate(images_NHWC):
    x = x_HWC[..., 0] if x_HWC.shape[-1] == 1 else x_HWC
    PIL.Image.fromarray(x).save(folder / f"{number:04}.png")


def _distort(images_NHWC: np.ndarray, seed: int) -> np.ndarray:
  """Distorts pictures, uint8, by the mechanisms in turns."""
  preset = dict(mechanisms.PRESETS["faces_grey"])
  del preset["names"]
  chosen = mechanisms.by_names(NAMES, preset)
  keys = jax.random.split(jax.random.key(seed), len(images_NHWC))
  out_NHWC = np.empty_like(images_NHWC)
  for number, mechanism in enumerate(chosen):
    mine = slice(number, None, len(chosen))
    x_NHWC = images_NHWC[mine].astype(np.float32) / 255
    y_NHWC = jax.vmap(mechanism)(keys[mine], x_NHWC)
    out_NHWC[mine] = np.round(255 * np.asarray(y_NHWC))
  return out_NHWC


def _psnr_db(clean_NHWC: np.ndarray, x_NHWC: np.ndarray) -> float:
  error_N = np.mean((clean_NHWC / 255 - x_NHWC) ** 2, axis=(1, 2, 3))
  return round(float(np.mean(-10 * np.log10(error_N))), 1)


if __name__ == "__main__":
  main()
