"""Attributes that a probe sees in images before and after experts, by group."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from icm_jax import competition, types
from icm_jax.data import augment, sources
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import evaluator, restoration
from icm_jax.evaluation import probe as probe_lib

if TYPE_CHECKING:
  import ml_collections

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
  other_K = _others(counts_K, attribute)
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
  judge: probe_lib.Judge,
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
    judge: a probe that knows the groups' attributes first, in their order.
    wins_EM: counts on the examples, which determine a group's own expert.
    margin: gain in score below which the gate leaves an image alone.
    setup: setup of the run.
    batch_size: number of images in one call of the experts.

  Returns:
    `probe`: see `probe.accuracies`, on the whole test part; `likeness`: see
    `probe.likeness`, None if the data set does not say who is seen;
    `canonical`: see `gated_change`, of canonical test images, None without any;
    and `by_group`, see `group_change`, with `canonical_change`, the mean
    absolute change of canonical test images by the own expert through the gate.
  """
  ids = problem.test_ids[problem.group_N[problem.test_ids] < 0]
  canonical = gated_change(
    state,
    np.asarray(problem_lib.to_float(problem.images.image_NHWC[ids])),
    judge,
    margin=margin,
    setup=setup,
    batch_size=batch_size,
  )
  rows = {}
  for m, name in enumerate(problem.group_names):
    own = int(wins_EM[:, m].argmax())
    is_here_N = examples.mechanism_N == m
    rows[name] = group_change(
      state,
      examples.transformed_NHWC[is_here_N],
      judge,
      label_NK=judge.labels.has_NK[examples.id_N[is_here_N]],
      attribute=m,
      own=own,
      setup=setup,
      batch_size=batch_size,
    ) | {"canonical_change": canonical and canonical["change_by_expert"][own]}
  return {
    "probe": judge.accuracy,
    "likeness": judge.likeness,
    "canonical": canonical,
    "by_group": rows,
  }


def group_change(
  state: types.TrainState,
  x_NHWC: np.ndarray,
  judge: probe_lib.Judge,
  *,
  label_NK: np.ndarray | None = None,
  attribute: int,
  own: int,
  setup: types.Setup,
  batch_size: int,
) -> dict[str, Any]:
  """Measures what experts do to images that carry an attribute.

  Args:
    state: state of a run.
    x_NHWC: float32 in [0, 1], at least one image.
    judge: a probe.
    label_NK: bool, labels of the images; None if there are none.
    attribute: number of the attribute that should disappear.
    own: number of the attribute's own expert.
    setup: setup of the run.
    batch_size: number of images in one call of the experts.

  Returns:
    Number of `images`; `won_by_own`, the share of them that the own expert
    wins; `gone_restored`, `gone_own` and `gone_others_max`, shares gone after
    the winner, after the own expert, and the largest share after another
    expert; `others_kept`, see `others_unchanged`, after the winner;
    `others_kept_shifted`, the same after a shift by one pixel to the right and
    down instead, which changes no attribute: a scale for what others kept say;
    `others_right_before` and `others_right_after` the winner, the shares of the
    same judgements that agree with labels, None without labels; `seen`, the
    share of images in which the probe sees the attribute before any expert; by
    version, `restored` by the winner and `oracle` by the own expert, see
    `change`, with `relative_likeness`, 0 for photos of two people and 1 for two
    photos of one person; and `gone_by_expert`, E shares, whichever expert won.
  """

  @jax.jit
  def restore(state, x_BHWC):
    restored = competition.restore(state, x_BHWC, setup=setup)
    # The expert axis goes last, so that batches join along the first.
    output_BHWCE = restored.output_EBHWC.transpose(1, 2, 3, 4, 0)
    return restored.restored_BHWC, restored.winner_B, output_BHWCE

  restored_NHWC, winner_N, output_NHWCE = restoration.by_batches(
    restore, state, x_NHWC, batch_size=batch_size
  )
  before, after = judge.look(x_NHWC), judge.look(restored_NHWC)
  measure = functools.partial(
    change,
    before,
    attribute=attribute,
    names=judge.labels.names,
    counts_K=judge.counts_K,
  )
  by_expert = [
    measure(judge.look(output_NHWC))
    for output_NHWC in np.moveaxis(output_NHWCE, -1, 0)
  ]
  versions = dict(
    zip(
      VERSIONS,
      (measure(after), by_expert[own]),
      strict=True,
    )
  )
  for version in versions.values():
    version["relative_likeness"] = _relative(
      version["likeness"], judge.likeness
    )
  other_K = _others(judge.counts_K, attribute)
  right: tuple[float | None, ...] = (None, None)
  if label_NK is not None:
    right = tuple(
      probe_lib.share((seen.has_NK == label_NK)[:, other_K])
      for seen in (before, after)
    )
  edges = ((0, 0), (1, 0), (1, 0), (0, 0))
  shifted_NHWC = np.pad(x_NHWC, edges, mode="edge")[:, :-1, :-1]
  same_NK = before.has_NK == judge.look(shifted_NHWC).has_NK
  gone_E = [version["gone"] for version in by_expert]
  others = [gone for gone in np.delete(gone_E, own) if gone is not None]
  return {
    "images": len(x_NHWC),
    "won_by_own": float((winner_N == own).mean()),
    "gone_restored": versions["restored"]["gone"],
    "gone_own": gone_E[own],
    "gone_others_max": max(others, default=None),
    "others_kept": versions["restored"]["others_unchanged"],
    "others_kept_shifted": probe_lib.share(same_NK[:, other_K]),
    "others_right_before": right[0],
    "others_right_after": right[1],
    "seen": float(before.has_NK[:, attribute].mean()),
    **versions,
    "gone_by_expert": gone_E,
  }


def _others(counts_K: np.ndarray, attribute: int) -> np.ndarray:
  """Returns which attributes count as others of one, [K] bool."""
  return counts_K & (np.arange(len(counts_K)) != attribute)


def gated_change(
  state: types.TrainState,
  x_NHWC: np.ndarray,
  judge: probe_lib.Judge,
  *,
  margin: float,
  setup: types.Setup,
  batch_size: int,
) -> dict[str, Any] | None:
  """Measures what experts do to images without an attribute of a group.

  Args:
    state: state of a run.
    x_NHWC: float32 in [0, 1].
    judge: a probe.
    margin: gain in score below which the gate leaves an image alone.
    setup: setup of the run.
    batch_size: number of images in one call of the experts.

  Returns:
    Number of `images`; `changed`, the share of them that the gate does not
    leave alone; through the gate, `change`, the mean absolute change in units
    of the pixel range, `change_by_expert`, E parts of it, and `kept`, the share
    of the probe's judgements that do not change; `change_ungated`, the mean
    change where the winner restores every image. None if there is no image.
  """
  if not len(x_NHWC):
    return None

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
  same_NK = judge.look(gated_NHWC).has_NK == judge.look(x_NHWC).has_NK
  return {
    "images": len(x_NHWC),
    "changed": float(open_N.mean()),
    "change": float(change_N.mean()),
    "change_by_expert": [
      float(np.where(winner_N == expert, change_N, 0.0).mean())
      for expert in range(len(jax.tree.leaves(state.experts_E)[0]))
    ],
    "kept": probe_lib.share(same_NK[:, judge.counts_K]),
    "change_ungated": float(np.abs(restored_NHWC - x_NHWC).mean()),
  }


def _relative(
  cosine: float | None, alike: Mapping[str, float] | None
) -> float | None:
  if alike is None or cosine is None:
    return None
  distance = alike["same_person"] - alike["two_people"]
  return (cosine - alike["two_people"]) / distance


def promise_judge(
  config: ml_collections.ConfigDict,
  data: sources.DataSet,
  problem: problem_lib.Problem,
  augmentation: augment.Augmentation,
) -> evaluator.Once[probe_lib.Judge] | None:
  """Checks all that a probe needs, and trains it once it is needed.

  Args:
    config: config of a run.
    data: its data set, with all groups that it knows.
    problem: the same data set, split into its parts.
    augmentation: random changes of training images.

  Returns:
    None if the problem has no groups, or the config names no attributes.

  Raises:
    InputError: there are too few images, or labels of an attribute.
  """
  if not problem.group_names or not config.attributes.names:
    return None
  if config.classifier.batch_size > len(problem.judge_ids):
    raise types.InputError(
      f"--config.classifier.batch_size={config.classifier.batch_size} is "
      f"larger than the {len(problem.judge_ids)} images of {config.data.name} "
      "that a probe is trained on."
    )
  names = [name.strip() for name in config.attributes.names.split(",")]
  labels = probe_lib.make_labels(
    data, problem, [name for name in names if name]
  )

  def train():
    look = probe_lib.train(
      problem,
      labels,
      augmentation=augmentation,
      seed=config.seed,
      batch_size=config.evaluation.batch_size,
      training=config.classifier,
    )
    return probe_lib.judge(problem, labels, look)

  return evaluator.Once(train)


def _build(parts: evaluator.Parts) -> evaluator.Measure:
  judge = parts.judge
  assert judge is not None, "groups and names of attributes make a judge"

  def measure(trained):
    return evaluate(
      trained.state,
      parts.problem,
      parts.examples,
      judge(),
      trained.wins_EM,
      margin=trained.margin(),
      setup=parts.setup,
      batch_size=parts.config.evaluation.batch_size,
    )

  return measure


EVALUATOR = evaluator.Evaluator(
  "attributes",
  asked_by="attributes.names",
  needs=(evaluator.GROUPS,),
  build=_build,
)
