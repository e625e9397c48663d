"""What a run has learned, for programs without this package."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from icm_jax import types
from icm_jax.learned import loading

PLATFORMS = ("cpu", "cuda", "tpu")


def program(
  learned: loading.Learned, *, platforms: Sequence[str] = PLATFORMS
) -> bytes:
  """Serializes a program that restores images; its parameters are in it.

  `jax.export.deserialize(program).call(images)` takes float32 images in [0, 1],
  [B, H, W, C] with any B, and returns a dict of arrays by the names of
  `loading.Restored` without their axes: `restored`, `winner`, `score` and
  `change`.

  Args:
    learned: the run.
    platforms: what the program can run on, as jax names it.
  """

  def restore(images):
    found = loading.restore(learned.state, images, setup=learned.setup)
    return {
      name.partition("_")[0]: array for name, array in found._asdict().items()
    }

  (batch,) = jax.export.symbolic_shape("batch")
  exported = jax.export.export(jax.jit(restore), platforms=list(platforms))(
    jax.ShapeDtypeStruct((batch, *learned.shape_HWC), np.float32)
  )
  return bytes(exported.serialize())


def parameters(learned: loading.Learned) -> bytes:
  """The parameters as a safetensors file.

  Names are `experts.`, `expert_stats.` or `discriminator.` and the names of
  layers; arrays of experts have a leading axis of experts.
  """
  state = learned.state
  tree = {
    "experts": state.experts_E,
    "expert_stats": state.expert_stats_E,
    "discriminator": state.discriminator,
  }
  name_of = functools.partial(jax.tree_util.keystr, simple=True, separator=".")
  return safetensors.numpy.save(
    {
      name_of(path): np.ascontiguousarray(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    },
    metadata={"library": "icm-jax", "steps": str(learned.steps)},
  )


def networks(learned: loading.Learned) -> dict[str, Any]:
  """What the parameters belong to, as JSON data."""
  c = learned.config
  recall = learned.state.memory.get("relocation")
  retired = [] if recall is None else np.flatnonzero(recall.retired_E).tolist()
  return {
    "image_shape": list(learned.shape_HWC),
    "mechanisms": list(learned.mechanisms),
    "mechanism_of": list(learned.mechanism_of),
    "margin": learned.result["margin"] if learned.result else None,
    "steps": learned.steps,
    "retired": retired,  # Experts that never win.
    "experts": {
      **c.experts.to_dict(),
      "copies": c.identity.by_construction,
    },
    "discriminator": c.discriminator.to_dict(),
  }


def deciding_remedies(learned: loading.Learned) -> list[str]:
  """Names of remedies without which an image may have another winner.

  Parameters and scores are not enough where these decide outside training;
  retired experts are known without the remedy that retired them.
  """
  plain = types.Remedy("").test_merit
  return [
    remedy.name
    for remedy in learned.setup.remedies
    if remedy.test_merit is not plain and remedy.name != "relocation"
  ]
