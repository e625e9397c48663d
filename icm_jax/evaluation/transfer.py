"""Experts applied to a data set on which they were not trained.

All images of the other data set are test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from icm_jax import competition, types
from icm_jax import mechanisms as mechanisms_lib
from icm_jax.competition import losses
from icm_jax.data import pictures, skipped, sources
from icm_jax.data import problem as problem_lib
from icm_jax.data import roles as roles_lib
from icm_jax.evaluation import (
  attribute_transfer,
  detection_table,
  evaluator,
  restoration,
  specialisation,
)
from icm_jax.mechanisms import faces


def evaluate(
  state: types.TrainState,
  examples: restoration.Examples,
  wins_EM: np.ndarray,
  names: Sequence[str],
  *,
  setup: types.Setup,
  batch_size: int,
) -> dict[str, dict[str, float | None]]:
  """Measures whether experts undo their mechanisms on another data set.

  Args:
    state: state of a run.
    examples: examples of the other data set, with clean images.
    wins_EM: counts on the run's own test images, which determine a mechanism's
      own expert.
    names: M names.
    setup: setup of the run.
    batch_size: number of images in one call.

  Returns:
    By mechanism: `win_share`, the share of its images that its own expert wins,
    in [0, 1]; `psnr_db` of that expert's outputs for all of its images, against
    the clean images; and `best_other_psnr_db`, the highest PSNR of the other
    experts, None if there is no other.
  """

  @jax.jit
  def judge(state, clean_BHWC, x_BHWC):
    restored = competition.restore(state, x_BHWC, setup=setup)
    error_EB = jax.vmap(losses.reconstruction_loss, (0, None))(
      restored.output_EBHWC, clean_BHWC
    )
    # The expert axis goes last, so that batches join along the first.
    return restored.winner_B, error_EB.T

  clean_NHWC = examples.clean_NHWC
  assert clean_NHWC is not None, "transfer needs examples with clean images"
  num_examples = len(examples.mechanism_N)
  parts = []
  for start in range(0, num_examples, batch_size):
    # The last batch is filled with the first images, which are cut off below.
    ids = np.arange(start, start + batch_size) % num_examples
    parts.append(
      jax.device_get(
        judge(state, clean_NHWC[ids], examples.transformed_NHWC[ids])
      )
    )
  winner_N, error_NE = jax.tree.map(
    lambda *leaves: np.concatenate(leaves)[:num_examples], *parts
  )
  num_experts, num_mechanisms = wins_EM.shape
  now_EM = specialisation.count_wins(
    winner_N,
    examples.mechanism_N,
    num_experts=num_experts,
    num_mechanisms=num_mechanisms,
  )
  by_name = {}
  for m, name in enumerate(names):
    main = int(wins_EM[:, m].argmax())
    psnr_E = restoration.psnr_db(
      error_NE[examples.mechanism_N == m].mean(axis=0)
    )
    others = np.delete(psnr_E, main)
    by_name[name] = {
      "win_share": float(now_EM[main, m] / now_EM[:, m].sum()),
      "psnr_db": float(psnr_E[main]),
      "best_other_psnr_db": float(others.max()) if len(others) else None,
    }
  return by_name


def _position(name: str, crop: int | None) -> faces.Geometry | None:
  """Where faces lie in a data set's images; None if that is not known.

  Args:
    name: name of the data set.
    crop: side of the square that is cut out of its pictures, in pixels; None is
      the data set's own.
  """
  face = mechanisms_lib.GEOMETRIES.get(name)
  if face is None or not crop:
    return face
  usual = sources.SOURCES[name].view.get("crop")
  return face.zoomed(usual / crop) if usual else None


def load(parts: evaluator.Parts) -> problem_lib.Problem:
  """Loads the other data set, with all of its images as test images.

  If the position of faces is known in both data sets, faces are aligned with
  those of the run's own images.

  Args:
    parts: parts of the run.
  """
  config = parts.config
  c = config.transfer
  view: dict[str, Any] = {"channels": parts.problem.shape_HWC[-1]}
  # Experts and discriminator have learned faces at one position only.
  face = _position(c.name, None)
  target = _position(config.data.name, config.data.crop)
  if face is not None and target is not None:
    view["frame"] = pictures.Frame(*mechanisms_lib.alignment(face, target))
  data = sources.load(
    c.name,
    image_size=config.data.image_size,
    view=view,
    data_dir=config.data.dir,
    manual_dir=c.manual_dir,
    download=config.data.download,
    max_images=config.data.max_images,
    progress=parts.progress,
  )
  roles = roles_lib.choose(data.roles, ())
  if c.canonical:
    roles = roles._replace(canonical=c.canonical)
  other = problem_lib.make_problem(data._replace(roles=roles), seed=config.seed)
  everything = np.concatenate([other.train_ids, other.test_ids])
  return other._replace(test_ids=np.sort(everything))


def _build(parts: evaluator.Parts) -> evaluator.Measure:
  other = load(parts)
  build = _of_groups if parts.problem.group_names else _of_functions
  measure = build(parts, other)
  return lambda trained: {
    "data": parts.config.transfer.name,
    "skipped_by_reason": skipped.by_reason(other.skipped),
    **measure(trained),
  }


def _of_functions(
  parts: evaluator.Parts, other: problem_lib.Problem
) -> evaluator.Measure:
  """Measures mechanisms that are functions, which act on the other images."""
  config = parts.config
  examples = restoration.make_examples(
    other,
    parts.mechanisms,
    seed=config.seed,
    num_examples=config.transfer.examples,
  )
  detect = None
  if detection_table.EVALUATOR.is_asked(config):
    detect = detection_table.EVALUATOR.build(parts._replace(problem=other))
  return lambda trained: {
    "by_mechanism": evaluate(
      trained.state,
      examples,
      trained.wins_EM,
      parts.mechanism_names,
      setup=parts.setup,
      batch_size=config.evaluation.batch_size,
    ),
    "detection": detect(trained) if detect else None,
  }


def _of_groups(
  parts: evaluator.Parts, other: problem_lib.Problem
) -> evaluator.Measure:
  """Measures attributes, which the other images carry or do not."""
  config, judge = parts.config, parts.judge
  assert judge is not None, "`evaluator.JUDGED` is a need"
  order = np.random.default_rng(config.seed).permutation(len(other.test_ids))
  ids = other.test_ids[order[: config.transfer.examples]]
  return lambda trained: {
    "attributes": attribute_transfer.evaluate(
      trained.state,
      np.asarray(problem_lib.to_float(other.images.image_NHWC[ids])),
      judge(),
      trained.wins_EM,
      margin=trained.margin(),
      setup=parts.setup,
      batch_size=config.evaluation.batch_size,
    )
  }


EVALUATOR = evaluator.Evaluator(
  "transfer",
  asked_by="transfer.name",
  needs=(evaluator.JUDGED,),
  build=_build,
)
