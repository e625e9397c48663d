"""Attributes that a probe sees in images before and after experts, by group."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from icm_jax import competition, types
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import evaluator, restoration
from icm_jax.evaluation import probe as probe_lib

# Transformed images after experts, in the order of the page's columns.
VERSIONS = ("restored", "oracle")


def change(
  before: probe_lib.Seen,
  after: probe_lib.Seen,
  attribute: int,
  *,
  names: Sequence[str],
  counts_K: np.ndarray,
) -> dict[str, Any]:
  """How experts change images that carry an attribute.

  Args:
    before: what the probe sees in N images.
    after: what the probe sees in them after experts.
    attribute: number of the attribute that should disappear.
    names: names of the K attributes.
    counts_K: bool, attributes that the probe judges accurately enough.

  Returns:
    `gone`: of the images in which the attribute was seen, the share in which it
    is no longer seen; None if it was seen in no image. `unchanged`: by other
    attribute, the share of its judgements that do not change;
    `others_unchanged`: the share of all these judgements that do not change;
    `all_others_unchanged`: the share of images in which none of them changes;
    both are None if no other attribute counts. `likeness`: mean cosine of faces
    before and after; None if the data set does not say who is seen.
  """
  had_N = before.has_NK[:, attribute]
  other_K = counts_K & (np.arange(len(counts_K)) != attribute)
  same_NK = (before.has_NK == after.has_NK)[:, other_K]
  cosine_N = None
  if before.face_NP is not None:
    cosine_N = (before.face_NP * after.face_NP).sum(axis=1)
  return {
    "gone": probe_lib.share(~after.has_NK[had_N, attribute]),
    "unchanged": {
      names[int(k)]: probe_lib.share(same_N)
      for k, same_N in zip(np.flatnonzero(other_K), same_NK.T, strict=True)
    },
    "others_unchanged": probe_lib.share(same_NK),
    "all_others_unchanged": (
      probe_lib.share(same_NK.all(axis=1)) if other_K.any() else None
    ),
    "likeness": None if cosine_N is None else float(cosine_N.mean()),
  }


def evaluate(
  state: types.TrainState,
  problem: problem_lib.Problem,
  examples: restoration.Examples,
  labels: probe_lib.Labels,
  probe: probe_lib.Probe,
  wins_EM: np.ndarray,
  *,
  setup: types.Setup,
  batch_size: int,
) -> dict[str, Any]:
  """Measures a state's experts by what a probe sees.

  Args:
    state: state of a run.
    problem: a problem with M groups.
    examples: test images of the groups.
    labels: labels, those of the groups first and in their order.
    probe: a trained probe, see `probe.train`.
    wins_EM: counts on the examples, which determine a group's own expert.
    setup: setup of the run.
    batch_size: number of images in one call of the experts.

  Returns:
    `probe`: see `probe.accuracies`, on the whole test part; `likeness`: see
    `probe.likeness`, None if the data set does not say who is seen; and
    `by_group`, with: number of `images`; `seen`, the share of them in which the
    probe sees the group's attribute before any expert; by version, `restored`
    by the winner and `oracle` by the group's own expert, see `change`, with
    `relative_likeness`, 0 for photos of two people and 1 for two photos of one
    person; and `gone_by_expert`, E shares, whichever expert won.
  """
  test_ids = problem.test_ids
  clean = probe(
    np.asarray(problem_lib.to_float(problem.images.image_NHWC[test_ids]))
  )
  accuracy = probe_lib.accuracies(
    clean.has_NK, labels.has_NK[test_ids], labels.names
  )
  counts_K = np.array([row["counts"] for row in accuracy.values()])
  alike = None
  if clean.face_NP is not None and labels.person_N is not None:
    alike = probe_lib.likeness(clean.face_NP, labels.person_N[test_ids])

  @jax.jit
  def restore(state, x_BHWC):
    restored = competition.restore(state, x_BHWC, setup=setup)
    # The expert axis goes last, so that batches join along the first.
    output_BHWCE = restored.output_EBHWC.transpose(1, 2, 3, 4, 0)
    return restored.restored_BHWC, output_BHWCE

  rows = {}
  for m, name in enumerate(problem.group_names):
    x_NHWC = examples.transformed_NHWC[examples.mechanism_N == m]
    restored_NHWC, output_NHWCE = restoration.by_batches(
      restore, state, x_NHWC, batch_size=batch_size
    )
    before = probe(x_NHWC)
    measure = functools.partial(
      change, before, attribute=m, names=labels.names, counts_K=counts_K
    )
    by_expert = [
      measure(probe(output_NHWC))
      for output_NHWC in np.moveaxis(output_NHWCE, -1, 0)
    ]
    versions = dict(
      zip(
        VERSIONS,
        (measure(probe(restored_NHWC)), by_expert[wins_EM[:, m].argmax()]),
        strict=True,
      )
    )
    for version in versions.values():
      version["relative_likeness"] = _relative(version["likeness"], alike)
    rows[name] = {
      "images": len(x_NHWC),
      "seen": float(before.has_NK[:, m].mean()),
      **versions,
      "gone_by_expert": [version["gone"] for version in by_expert],
    }
  return {"probe": accuracy, "likeness": alike, "by_group": rows}


def _relative(
  cosine: float | None, alike: Mapping[str, float] | None
) -> float | None:
  if alike is None or cosine is None:
    return None
  distance = alike["same_person"] - alike["two_people"]
  return (cosine - alike["two_people"]) / distance


def _build(parts: evaluator.Parts) -> evaluator.Measure:
  config, problem = parts.config, parts.problem
  batch_size = config.evaluation.batch_size
  if config.classifier.batch_size > len(problem.judge_ids):
    raise types.InputError(
      f"--config.classifier.batch_size={config.classifier.batch_size} is "
      f"larger than the {len(problem.judge_ids)} images of {config.data.name} "
      "that a probe is trained on."
    )
  names = [name.strip() for name in config.attributes.names.split(",")]
  labels = probe_lib.make_labels(
    parts.data, problem, [name for name in names if name]
  )

  def measure(trained):
    probe = probe_lib.train(
      problem,
      labels,
      augmentation=parts.augmentation,
      seed=config.seed,
      batch_size=batch_size,
      training=config.classifier,
    )
    return evaluate(
      trained.state,
      problem,
      parts.examples,
      labels,
      probe,
      trained.wins_EM,
      setup=parts.setup,
      batch_size=batch_size,
    )

  return measure


EVALUATOR = evaluator.Evaluator(
  "attributes",
  asked_by="attributes.names",
  needs=(evaluator.GROUPS,),
  build=_build,
)
