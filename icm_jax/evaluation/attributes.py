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
  margin: float,
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
    margin: gain in score below which the gate leaves an image alone.
    setup: setup of the run.
    batch_size: number of images in one call of the experts.

  Returns:
    `probe`: see `probe.accuracies`, on the whole test part; `likeness`: see
    `probe.likeness`, None if the data set does not say who is seen;
    `canonical`: see `canonical_change`, None without canonical test images; and
    `by_group`, with: number of `images`; `won_by_own`, the share of them that
    the group's own expert wins; `gone_restored`, `gone_own` and
    `gone_others_max`, shares gone after the winner, after the group's own
    expert, and the largest share after another expert; `others_kept`, see
    `others_unchanged`, after the winner; `canonical_change`, the mean absolute
    change of canonical test images by the own expert through the gate; `seen`,
    the share of images in which the probe sees the group's attribute before any
    expert; by version, `restored` by the winner and `oracle` by the group's own
    expert, see `change`, with `relative_likeness`, 0 for photos of two people
    and 1 for two photos of one person; and `gone_by_expert`, E shares,
    whichever expert won.
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

  canonical = canonical_change(
    state,
    problem,
    probe,
    counts_K,
    margin=margin,
    setup=setup,
    batch_size=batch_size,
  )
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
    own = int(wins_EM[:, m].argmax())
    gone_E = [version["gone"] for version in by_expert]
    others = [gone for gone in np.delete(gone_E, own) if gone is not None]
    rows[name] = {
      "images": len(x_NHWC),
      "won_by_own": float(wins_EM[own, m] / wins_EM[:, m].sum()),
      "gone_restored": versions["restored"]["gone"],
      "gone_own": gone_E[own],
      "gone_others_max": max(others, default=None),
      "others_kept": versions["restored"]["others_unchanged"],
      "canonical_change": canonical and canonical["change_by_expert"][own],
      "seen": float(before.has_NK[:, m].mean()),
      **versions,
      "gone_by_expert": gone_E,
    }
  return {
    "probe": accuracy,
    "likeness": alike,
    "canonical": canonical,
    "by_group": rows,
  }


def canonical_change(
  state: types.TrainState,
  problem: problem_lib.Problem,
  probe: probe_lib.Probe,
  counts_K: np.ndarray,
  *,
  margin: float,
  setup: types.Setup,
  batch_size: int,
) -> dict[str, Any] | None:
  """Measures what experts do to canonical test images.

  Args:
    state: state of a run.
    problem: a problem with M groups.
    probe: a trained probe.
    counts_K: bool, attributes that the probe judges accurately enough.
    margin: gain in score below which the gate leaves an image alone.
    setup: setup of the run.
    batch_size: number of images in one call of the experts.

  Returns:
    Number of `images`; `changed`, the share of them that the gate does not
    leave alone; through the gate, `change`, the mean absolute change in units
    of the pixel range, `change_by_expert`, E parts of it, and `kept`, the share
    of the probe's judgements that do not change; `change_ungated`, the mean
    change where the winner restores every image. None if there is no canonical
    test image.
  """
  ids = problem.test_ids[problem.group_N[problem.test_ids] < 0]
  if not len(ids):
    return None
  x_NHWC = np.asarray(problem_lib.to_float(problem.images.image_NHWC[ids]))

  @jax.jit
  def pass_through(state, x_BHWC):
    restored = competition.restore(state, x_BHWC, setup=setup)
    gain_B = restored.score_EB.max(axis=0)
    gain_B -= competition.score(state, x_BHWC, setup=setup)
    return restored.restored_BHWC, restored.winner_B, gain_B > margin

  restored_NHWC, winner_N, open_N = restoration.by_batches(
    pass_through, state, x_NHWC, batch_size=batch_size
  )
  gated_NHWC = np.where(open_N[:, None, None, None], restored_NHWC, x_NHWC)
  change_N = np.abs(gated_NHWC - x_NHWC).mean(axis=(1, 2, 3))
  same_NK = probe(gated_NHWC).has_NK == probe(x_NHWC).has_NK
  return {
    "images": len(ids),
    "changed": float(open_N.mean()),
    "change": float(change_N.mean()),
    "change_by_expert": [
      float(np.where(winner_N == expert, change_N, 0.0).mean())
      for expert in range(len(jax.tree.leaves(state.experts_E)[0]))
    ],
    "kept": probe_lib.share(same_NK[:, counts_K]),
    "change_ungated": float(np.abs(restored_NHWC - x_NHWC).mean()),
  }


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
      margin=trained.margin(),
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
