"""Several mechanisms in a row, undone by chains of experts.

The discriminator selects the expert at every step, and decides when to stop;
the empty chain is a gate that leaves clean images alone. The paper names this
as an extension, without numbers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import competition, rng, types
from icm_jax import mechanisms as mechanisms_lib
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import classifier as classifier_lib
from icm_jax.evaluation import evaluator, restoration

if TYPE_CHECKING:
  import ml_collections

NONE = -1  # Fills a chain after its end.


class Chains(NamedTuple):
  """Images after their best chains of at most L experts.

  Attributes:
    restored_BHWC: float32 in [0, 1].
    score_B: float32 logits of the discriminator.
    length_B: int32 in [0, L], number of experts that were applied.
    expert_BL: int32 in [0, E), experts in the order of application; `NONE`
      after the end.
  """

  restored_BHWC: jax.Array
  score_B: jax.Array
  length_B: jax.Array
  expert_BL: jax.Array


class _Beam(NamedTuple):
  """The K best chains of one length, best first; score -inf is no chain."""

  image_KBHWC: jax.Array
  score_KB: jax.Array
  expert_KBL: jax.Array


def search(
  state: types.TrainState,
  x_BHWC: jax.Array,
  *,
  setup: types.Setup,
  max_length: int,
  width: int,
  margin: float,
) -> Chains:
  """Searches for the chain of experts whose output looks most canonical.

  This is a beam search; a width of 1 is greedy. Scores along a chain may fall:
  an image need not look more canonical when one of two distortions is undone.

  Args:
    state: state of a run; not donated.
    x_BHWC: float32 in [0, 1].
    setup: setup of the run, bound before jitting, like all arguments below.
    max_length: L, the largest length of a chain, at least 1.
    width: K, the number of chains that are kept.
    margin: logits by which every further expert must raise the score, see
      `find_margin`; images that gain less are left alone.
  """
  num_images = x_BHWC.shape[0]
  image_B = jnp.arange(num_images)
  score_B = competition.score(state, x_BHWC, setup=setup)
  none_BL = jnp.full((num_images, max_length), NONE, jnp.int32)
  is_first_KB = jnp.arange(width)[:, None] == jnp.zeros((1, num_images), int)
  start = _Beam(
    jnp.broadcast_to(x_BHWC[None], (width, *x_BHWC.shape)),
    jnp.where(is_first_KB, score_B[None], -jnp.inf),
    jnp.broadcast_to(none_BL[None], (width, *none_BL.shape)),
  )
  best = Chains(x_BHWC, score_B, jnp.zeros(num_images, jnp.int32), none_BL)

  def extend(carry, length):
    beam, best = carry
    restored = competition.restore(
      state, beam.image_KBHWC.reshape(-1, *x_BHWC.shape[1:]), setup=setup
    )
    num_experts = restored.score_EB.shape[0]
    score_EKB = restored.score_EB.reshape(num_experts, width, num_images)
    # Extensions of a missing chain are missing too.
    score_EKB = jnp.where(beam.score_KB[None] == -jnp.inf, -jnp.inf, score_EKB)
    score_BK, choice_BK = jax.lax.top_k(
      score_EKB.reshape(num_experts * width, num_images).T, width
    )
    expert_KB, parent_KB = jnp.divmod(choice_BK.T.astype(jnp.int32), width)
    output_EKBHWC = restored.output_EBHWC.reshape(
      num_experts, width, *x_BHWC.shape
    )
    expert_KBL = beam.expert_KBL[parent_KB, image_B[None]]
    beam = _Beam(
      output_EKBHWC[expert_KB, parent_KB, image_B[None]],
      score_BK.T,
      expert_KBL.at[:, :, length - 1].set(expert_KB),
    )
    found = Chains(
      beam.image_KBHWC[0],
      beam.score_KB[0],
      jnp.full(num_images, length, jnp.int32),
      beam.expert_KBL[0],
    )
    price_B = margin * (length - best.length_B)
    better_B = found.score_B > best.score_B + price_B
    best = jax.tree.map(
      lambda new, old: jnp.where(
        better_B.reshape(-1, *[1] * (new.ndim - 1)), new, old
      ),
      found,
      best,
    )
    return (beam, best), None

  lengths = jnp.arange(1, max_length + 1, dtype=jnp.int32)
  (_, best), _ = jax.lax.scan(extend, (start, best), lengths)
  return best


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
  return max(0.0, float(np.quantile(gain_N, 1.0 - changed)))


def margin_of_run(
  config: ml_collections.ConfigDict,
  problem: problem_lib.Problem,
  state: types.TrainState,
  *,
  setup: types.Setup,
) -> float:
  """Finds the margin of a run by its config's section `gate`.

  Clean images are those of the transformed side before any distortion, because
  the discriminator has not learned these as canonical images.

  Args:
    config: config of the run.
    problem: problem of the run.
    state: state of the run.
    setup: setup of the run.
  """
  order = np.random.default_rng(config.seed).permutation(
    len(problem.transformed_ids)
  )
  ids = problem.transformed_ids[order[: config.gate.examples]]
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
      search, state, x_BHWC, setup=setup, max_length=max_length, margin=margin
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
