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
  detection_table,
  evaluator,
  restoration,
  specialisation,
)


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
  geometries = mechanisms_lib.GEOMETRIES
  # Experts and discriminator have learned faces at one position only.
  if {c.name, config.data.name} <= geometries.keys() and not config.data.crop:
    view["frame"] = pictures.Frame(
      *mechanisms_lib.alignment(
        geometries[c.name], geometries[config.data.name]
      )
    )
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
  config = parts.config
  other = load(parts)
  examples = restoration.make_examples(
    other,
    parts.mechanisms,
    seed=config.seed,
    num_examples=config.transfer.examples,
  )
  detect = None
  if detection_table.EVALUATOR.is_asked(config):
    detect = detection_table.EVALUATOR.build(parts._replace(problem=other))

  def measure(trained):
    return {
      "data": config.transfer.name,
      "skipped_by_reason": skipped.by_reason(other.skipped),
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

  return measure


EVALUATOR = evaluator.Evaluator(
  "transfer",
  asked_by="transfer.name",
  needs=(evaluator.IMAGE_MECHANISMS,),
  build=_build,
)
