"""Mechanisms applied in a row, undone by experts applied again and again.

The discriminator chooses at every step, and decides when to stop; the empty
chain is a gate that leaves clean images alone. The paper names this as an
extension and has no numbers of it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import mechanisms as mechanisms_lib
from icm_jax import rng, types
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import classifier as classifier_lib
from icm_jax.evaluation import restoration

NONE = -1  # Stands in a chain after its end.


class Chains(NamedTuple):
  """Images after the chains of experts that suited them best; L is the longest.

  Attributes:
    restored_BHWC: float32 in [0, 1].
    score_B: float32 logits of the discriminator.
    length_B: int32 in [0, L], experts that were applied.
    expert_BL: int32 in [0, E), in the order of application; `NONE` after the
      end.
  """

  restored_BHWC: jax.Array
  score_B: jax.Array
  length_B: jax.Array
  expert_BL: jax.Array


class _Beam(NamedTuple):
  """The K best chains of one length, the best first; -inf is no chain."""

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

  A beam search; one of width 1 is greedy. Scores may fall on the way: an image
  of which one of two distortions is undone need not look more canonical yet.

  Args:
    state: read, not donated.
    x_BHWC: float32 in [0, 1].
    setup: bound before jitting, as are all below.
    max_length: L, at least 1.
    width: K, chains that are followed.
    margin: logits by which the score must rise for every further expert, as of
      `find_margin`; what does not gain so much is left alone.
  """
  num_images = x_BHWC.shape[0]
  image_B = jnp.arange(num_images)
  score_B, _ = setup.discriminator.apply(
    state.average_discriminator, {}, x_BHWC, train=False
  )
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
    restored = restoration.restore(
      state, beam.image_KBHWC.reshape(-1, *x_BHWC.shape[1:]), setup=setup
    )
    num_experts = restored.score_EB.shape[0]
    score_EKB = restored.score_EB.reshape(num_experts, width, num_images)
    # What follows from no chain is none.
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
  """What an expert must gain, or an image is left alone; logits, at least 0.

  So much that of clean images no more than a given share are changed. They
  must be none of those that the discriminator learned as canonical ones: it
  knows these, and would hardly prefer anything to them.

  Args:
    state: of a run.
    clean_NHWC: float32 in [0, 1], images that nothing has distorted.
    setup: of the run.
    changed: the share, in [0, 1].
    batch_size: images at a time.
  """

  @jax.jit
  def gain(state, x_BHWC):
    score_B, _ = setup.discriminator.apply(
      state.average_discriminator, {}, x_BHWC, train=False
    )
    score_EB = restoration.restore(state, x_BHWC, setup=setup).score_EB
    return score_EB.max(axis=0) - score_B

  gain_N = restoration.by_batches(
    gain, state, clean_NHWC, batch_size=batch_size
  )
  return max(0.0, float(np.quantile(gain_N, 1.0 - changed)))


def compositions(
  mechanisms: Sequence[mechanisms_lib.Mechanism], length: int
) -> list[tuple[int, ...]]:
  """Numbers of different mechanisms in a row that keep an image in its frame.

  Along each axis, no part of the row moves an image further than a single one
  of the mechanisms does.
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
  """Measures chains on test images after no, one, two, ... mechanisms.

  Args:
    state: of a run.
    classifier_params: of the evaluation classifier.
    problem: gives test images, with classes.
    mechanisms: M functions.
    names: M names.
    setup: of the run.
    classifier: the evaluation classifier.
    seed: of the order of images and of random mechanisms.
    examples: images for every length of rows, at least 1.
    batch_size: images at a time.
    max_length: of rows of mechanisms, and of chains of experts.
    width: of the beam search; the greedy one has width 1.
    margin: as for `search`.

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

  # One more function does nothing, so that rows of all lengths are one shape.
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
      # The last batch is filled up from the front, and cut again below.
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
