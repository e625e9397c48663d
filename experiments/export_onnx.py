"""Writes exported experts as ONNX, in an environment of its own.

`experiments.export --onnx=PYTHON` runs this file with another Python, because
jax2onnx needs an older Orbax than this package does. That environment has what
onnx_requirements.txt lists, and does not have this package: only the networks
of its folder are used.

  PYTHON -P export_onnx.py OUT PACKAGE IMAGES

reads config.json and parameters.safetensors of OUT, writes OUT/restore.onnx,
and applies the file with onnxruntime to the images of the NumPy file IMAGES,
which also holds what they must become. The last line of the output is one JSON
object: the largest differences, and the share of images with the same winner.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import pathlib
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax2onnx
import numpy as np
import onnx_ir
import onnxruntime
import safetensors.numpy
from onnx_ir.passes import common

MODEL = "restore.onnx"
INPUT = "images"
OUTPUTS = ("restored", "winner", "score", "change")
# An older one than jax2onnx would choose, so that more programs can read it.
_OPSET = 21


def add_package(folder: pathlib.Path) -> None:
  """Makes `icm_jax` importable from its folder, and nothing beside it."""
  spec = importlib.util.spec_from_file_location(
    "icm_jax",
    folder / "__init__.py",
    submodule_search_locations=[str(folder)],
  )
  package = importlib.util.module_from_spec(spec)
  sys.modules["icm_jax"] = package
  spec.loader.exec_module(package)


def nested(arrays: dict[str, np.ndarray]) -> dict:
  """Arrays by names with dots, as a tree of dicts."""
  tree: dict = {}
  for name, array in arrays.items():
    *path, last = name.split(".")
    node = tree
    for part in path:
      node = node.setdefault(part, {})
    node[last] = array
  return tree


def make_restore(folder: pathlib.Path) -> Callable[[jax.Array], tuple]:
  """The function of images that `restore.jax` is, from its parts."""
  from icm_jax import kernels, models

  c = json.loads((folder / "config.json").read_text())
  tree = nested(safetensors.numpy.load_file(folder / "parameters.safetensors"))
  shape_HWC = tuple(c["image_shape"])
  e, d = c["experts"], c["discriminator"]
  expert = models.make_expert(
    e["network"],
    shape_HWC,
    features=e["features"],
    norm=e["norm"],
    **e.get(e["network"], {}),
    copies=e["copies"],
  )
  judge = models.make_discriminator(
    d["network"],
    shape_HWC,
    features=d["features"],
    hidden=d["hidden"],
    norm=d["norm"],
  )
  experts_E, stats_E = tree["experts"], tree.get("expert_stats", {})
  members = [
    number
    for number in range(len(jax.tree.leaves(experts_E)[0]))
    if number not in c["retired"]
  ]

  def member(number):
    return jax.tree.map(lambda a_E: a_E[number], (experts_E, stats_E))

  def score(x_BHWC):
    return judge.apply(tree["discriminator"], {}, x_BHWC, train=False)[0]

  def restore(x_BHWC):
    with kernels.use("xla"):
      output_EBHWC = jnp.stack(
        [
          expert.apply(*member(number), x_BHWC, train=False)[0]
          for number in members
        ]
      )
      score_EB = jnp.stack(
        [score(output_EBHWC[place]) for place in range(len(members))]
      )
      before_B = score(x_BHWC)
    best_B = jnp.argmax(score_EB, axis=0)
    # A sum of one image and of zeros: where there is one expert, and its output
    # itself is returned, jax2onnx 0.17 returns another array.
    won_EB = jnp.arange(len(members))[:, None] == best_B
    won_EBHWC = won_EB[:, :, None, None, None]
    restored_BHWC = jnp.sum(jnp.where(won_EBHWC, output_EBHWC, 0.0), axis=0)
    winner_B = jnp.sum(
      jnp.where(won_EB, jnp.array(members, jnp.int32)[:, None], 0),
      axis=0,
      dtype=jnp.int32,
    )
    score_B = jnp.max(score_EB, axis=0)
    return restored_BHWC, winner_B, score_B, score_B - before_B

  return restore


def compare(model: pathlib.Path, images: pathlib.Path) -> dict[str, float]:
  """Applies a model to images, and compares with what they must become."""
  expected = np.load(images)
  session = onnxruntime.InferenceSession(
    model, providers=["CPUExecutionProvider"]
  )
  found = session.run(list(OUTPUTS), {INPUT: expected[INPUT]})
  row = {}
  for name, array in zip(OUTPUTS, found, strict=True):
    wanted = expected[name]
    row[name] = float(
      np.mean(array == wanted)
      if name == "winner"
      else np.max(np.abs(array - wanted))
    )
  return row


def main() -> None:
  folder, package, images = map(pathlib.Path, sys.argv[1:])
  add_package(package)
  logging.disable(logging.WARNING)  # It warns of every shape of no importance.
  c = json.loads((folder / "config.json").read_text())
  model = jax2onnx.to_onnx(
    make_restore(folder),
    [("batch", *c["image_shape"])],
    model_name="restore",
    opset=_OPSET,
    return_mode="ir",
    input_names=[INPUT],
    output_names=OUTPUTS,
  )
  # Every call of the discriminator brings its parameters.
  common.DeduplicateInitializersPass(size_limit=1 << 30)(model)
  onnx_ir.save(model, folder / MODEL)
  print(json.dumps(compare(folder / MODEL, images)))


if __name__ == "__main__":
  main()
