"""Several mechanisms in a row: how well chains of experts undo them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from icm_jax import competition, rng, types
from icm_jax import mechanisms as mechanisms_lib
from icm_jax.competition import chain_search
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import classifier as classifier_lib
from icm_jax.evaluation import evaluator, restoration

if TYPE_CHECKING:
  import ml_collections


def find_margin(
  state: types.TrainState,
  clean_NHWC: np.ndarray,
  *,
  setup: types.Setup,
  changed: float,
  batch_size: int,
) -> float:
  """Finds the gain in score below which images are left alone, in logits.

  The margin is the smallest one, and at least 0, at which at most a given share
  of clean images is changed. These images must not be canonical ones of the
  training: the discriminator has memorised those, and prefers hardly any output
  to them.

  Args:
    state: state of a run.
    clean_NHWC: float32 in [0, 1], images without any distortion.
    setup: setup of the run.
    changed: largest share of clean images that are changed, in [0, 1].
    batch_size: number of images in one call.
  """

  @jax.jit
  def gain(state, x_BHWC):
    score_B = competition.score(state, x_BHWC, setup=setup)
    score_EB = competition.restore(state, x_BHWC, setup=setup).score_EB
    return score_EB.max(axis=0) - score_B

  gain_N = restoration.by_batches(
    gain, state, clean_NHWC, batch_size=batch_size
  )
  return chain_search.margin(gain_N, changed=changed)


def margin_of_run(
  config: ml_collections.ConfigDict,
  problem: problem_lib.Problem,
  state: types.TrainState,
  *,
  setup: types.Setup,
) -> float:
  """Finds the margin of a run by its config's section `gate`.

  Clean images are `problem.clean_ids`, because the discriminator has not
  learned these as canonical images.

  Args:
    config: config of the run.
    problem: problem of the run.
    state: state of the run.
    setup: setup of the run.
  """
  order = np.random.default_rng(config.seed).permutation(len(problem.clean_ids))
  ids = problem.clean_ids[order[: config.gate.examples]]
  return find_margin(
    state,
    np.asarray(problem_lib.to_float(problem.images.image_NHWC[ids])),
    setup=setup,
    changed=config.gate.changed,
    batch_size=config.evaluation.batch_size,
  )


def compositions(
  mechanisms: Sequence[mechanisms_lib.Mechanism], length: int
) -> list[tuple[int, ...]]:
  """Returns rows of different mechanisms that keep an image in its frame.

  Along each axis, no part of a row moves an image further than a single
  mechanism does.

  Args:
    mechanisms: M functions.
    length: number of mechanisms in a row.

  Returns:
    Rows of numbers of mechanisms, in [0, M).
  """
  moves_M2 = np.array([mechanisms_lib.displacement(m) for m in mechanisms])
  limit = np.abs(moves_M2).max(initial=0)
  return [
    chosen
    for chosen in itertools.permutations(range(len(mechanisms)), length)
    if np.abs(np.cumsum(moves_M2[list(chosen)], axis=0)).max(initial=0) <= limit
  ]


def evaluate(
  state: types.TrainState,
  classifier_params: types.PyTree,
  problem: problem_lib.Problem,
  mechanisms: Sequence[mechanisms_lib.Mechanism],
  names: Sequence[str],
  *,
  setup: types.Setup,
  classifier: types.Network,
  seed: int,
  examples: int,
  batch_size: int,
  max_length: int,
  width: int,
  margin: float,
) -> dict[str, Any]:
  """Measures chains on test images after 0, 1, 2, ... mechanisms.

  Args:
    state: state of a run.
    classifier_params: parameters of the evaluation classifier.
    problem: problem with test images and classes.
    mechanisms: M functions.
    names: M names.
    setup: setup of the run.
    classifier: the evaluation classifier.
    seed: seed of the order of images and of random mechanisms.
    examples: number of images for every length of rows, at least 1.
    batch_size: number of images in one call.
    max_length: largest length of rows of mechanisms and of chains of experts.
    width: width of the beam search; the greedy search has width 1.
    margin: margin of `search`, in logits.

  Returns:
    `by_length`, for each number of mechanisms from 0, as text: accuracy
    `clean`, `before`, `greedy` and `beam`, in [0, 1], and `experts`, the mean
    length of the beam search's chains; `pairs`, accuracy after beam search by
    the names of two mechanisms, in the order in which they acted.
  """

  @jax.jit
  def judge(state, params, key, clean_BHWC, row_BL, label_B):
    x_BHWC = clean_BHWC
    for index in range(row_BL.shape[1]):
      x_BHWC = mechanisms_lib.apply_each(
        rng.stream(key, "row", index), x_BHWC, row_BL[:, index], functions
      )
    find = functools.partial(
      chain_search.search,
      state,
      x_BHWC,
      setup=setup,
      max_length=max_length,
      margin=margin,
    )
    beam = find(width=width)
    views = {
      "clean": clean_BHWC,
      "before": x_BHWC,
      "greedy": find(width=1).restored_BHWC,
      "beam": beam.restored_BHWC,
    }
    predict = classifier_lib.classify(classifier)
    right = {
      view: predict(params, image_BHWC) == label_B
      for view, image_BHWC in views.items()
    }
    return right, beam.length_B

  # The identity fills rows, so that rows of all lengths have the same shape.
  functions = (*mechanisms, lambda key, x_HWC: x_HWC)
  idle = len(mechanisms)
  images, order = problem.images, np.random.default_rng(seed)
  label_N = images.label_N
  assert label_N is not None, "chains need images with classes"
  by_length, pairs = {}, {}
  for length in range(max_length + 1):
    rows = compositions(mechanisms, length)
    if not rows:
      continue
    row_NL = np.full((examples, max_length), idle)
    row_N = np.arange(examples) % len(rows)
    row_NL[:, :length] = np.array(rows).reshape(len(rows), length)[row_N]
    ids = order.permutation(problem.test_ids)[
      np.arange(examples) % len(problem.test_ids)
    ]
    parts = []
    for start in range(0, examples, batch_size):
      # The last batch is filled with the first images, which are cut off below.
      batch = np.arange(start, start + batch_size) % examples
      key = rng.stream(
        jax.random.key(seed), f"chains of {length}", start // batch_size
      )
      part = judge(
        state,
        classifier_params,
        key,
        problem_lib.to_float(images.image_NHWC[ids[batch]]),
        row_NL[batch],
        label_N[ids[batch]],
      )
      parts.append(jax.device_get(part))
    right_N, length_N = jax.tree.map(
      lambda *leaves: np.concatenate(leaves)[:examples], *parts
    )
    by_length[str(length)] = {
      **{view: float(np.mean(right)) for view, right in right_N.items()},
      "experts": float(np.mean(length_N)),
    }
    if length == 2:
      pairs = {
        ", ".join(names[m] for m in row): float(
          right_N["beam"][row_N == r].mean()
        )
        for r, row in enumerate(rows)
        if (row_N == r).any()
      }
  return {"by_length": by_length, "pairs": pairs}


def _build(parts: evaluator.Parts) -> evaluator.Measure:
  def measure(trained):
    return evaluate(
      trained.state,
      trained.classifier,
      parts.problem,
      parts.mechanisms,
      parts.mechanism_names,
      setup=parts.setup,
      classifier=parts.classifier,
      seed=parts.config.seed,
      batch_size=parts.config.evaluation.batch_size,
      margin=trained.margin(),
      **parts.config.chains,
    )

  return measure


EVALUATOR = evaluator.Evaluator(
  "chains",
  asked_by="chains.examples",
  needs=(evaluator.IMAGE_MECHANISMS, evaluator.CLASSES),
  build=_build,
)
