"""The experts' outputs for transformed test images, and their measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from icm_jax import competition, rng, types
from icm_jax import mechanisms as mechanisms_lib
from icm_jax.competition import losses
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import classifier as classifier_lib
from icm_jax.evaluation import specialisation


class Examples(NamedTuple):
  """Test images, each transformed by one known mechanism.

  Attributes:
    transformed_NHWC: float32 in [0, 1], images after their mechanism.
    mechanism_N: int32 in [0, M), the mechanism of each image. Numbers of images
      by mechanism differ by one at most, unless a group has too few images.
    clean_NHWC: float32 in [0, 1], images before their mechanism; None if images
      carry their mechanism already.
    label_N: int32 in [0, K), class of each image; None if the data set has no
      classes.
    id_N: number of each image in the data set.
  """

  transformed_NHWC: np.ndarray
  mechanism_N: np.ndarray
  clean_NHWC: np.ndarray | None
  label_N: np.ndarray | None
  id_N: np.ndarray


def make_examples(
  problem: problem_lib.Problem,
  mechanisms: tuple[mechanisms_lib.Mechanism, ...],
  *,
  seed: int,
  num_examples: int,
) -> Examples:
  """Makes examples from the first test images of a random order.

  If there are more examples than test images, images are repeated with the next
  mechanism. If test images carry the mechanism of a group already, there are at
  most as many examples as images.

  Args:
    problem: problem with test images.
    mechanisms: M functions; empty if the problem has groups.
    seed: seed of the order of images and of random mechanisms.
    num_examples: N.

  Raises:
    InputError: there are fewer examples than mechanisms.
  """
  num_mechanisms = len(problem.group_names or mechanisms)
  if num_examples < num_mechanisms:
    raise types.InputError(
      f"Evaluation needs at least one example for each of the "
      f"{num_mechanisms} mechanisms; got {num_examples}."
    )
  images = problem.images
  if problem.group_names:
    ids = _group_examples(problem, seed, num_examples)
    return Examples(
      np.asarray(problem_lib.to_float(images.image_NHWC[ids])),
      problem.group_N[ids],
      clean_NHWC=None,
      label_N=None,
      id_N=ids,
    )
  num_images = len(problem.test_ids)
  order = np.random.default_rng(seed).permutation(num_images)
  turn, position = np.divmod(np.arange(num_examples), num_images)
  ids = problem.test_ids[order[position]]
  mechanism_N = ((position + turn) % num_mechanisms).astype(np.int32)
  clean_NHWC = np.asarray(problem_lib.to_float(images.image_NHWC[ids]))
  transformed_NHWC = np.empty_like(clean_NHWC)
  for m, mechanism in enumerate(mechanisms):
    chosen = np.flatnonzero(mechanism_N == m)
    key = rng.stream(jax.random.key(seed), "examples", m)
    key_B = jax.random.split(key, len(chosen))
    transform = jax.jit(jax.vmap(mechanism))
    transformed_NHWC[chosen] = transform(key_B, clean_NHWC[chosen])
  label_N = None if images.label_N is None else images.label_N[ids]
  return Examples(transformed_NHWC, mechanism_N, clean_NHWC, label_N, ids)


def _group_examples(problem, seed, num_examples) -> np.ndarray:
  """Returns ids of test images, of every group the same number if possible."""
  generator = np.random.default_rng(seed)
  group_N = problem.group_N[problem.test_ids]
  share = -(-num_examples // len(problem.group_names))
  return np.concatenate(
    [
      generator.permutation(problem.test_ids[group_N == group])[:share]
      for group in range(len(problem.group_names))
    ]
  )


def by_batches(
  function: Callable[[types.PyTree, np.ndarray], types.PyTree],
  state: types.PyTree,
  x_NHWC: np.ndarray,
  *,
  batch_size: int,
) -> types.PyTree:
  """Applies a function to all images, batch by batch.

  All batches have the same size, so that a jitted function compiles once.

  Args:
    function: `function(state, x_BHWC)`; every leaf of its result has a leading
      axis of images.
    state: first argument of the function.
    x_NHWC: images.
    batch_size: number of images in one call.

  Returns:
    The function's result for all images, as NumPy arrays.
  """
  parts = []
  for start in range(0, len(x_NHWC), batch_size):
    # The last batch is filled up from the front, and cut again below.
    ids = np.arange(start, start + batch_size) % len(x_NHWC)
    parts.append(jax.device_get(function(state, x_NHWC[ids])))
  return jax.tree.map(
    lambda *leaves: np.concatenate(leaves)[: len(x_NHWC)], *parts
  )


class Judgement(NamedTuple):
  """Measures of every example, as NumPy arrays.

  Attributes:
    score_EN: float32, logits of the discriminator.
    winner_N: int32 in [0, E), the winner of each example.
    error_N: float32, mean squared error of the winner's output against the
      clean image; None without clean images.
    correct_N: bool by `clean`, `transformed` and `restored`, whether the
      classifier recognises that version of each example; empty without clean
      images or classes.
  """

  score_EN: np.ndarray
  winner_N: np.ndarray
  error_N: np.ndarray | None
  correct_N: dict[str, np.ndarray]


def psnr_db(error: np.ndarray) -> np.ndarray:
  """Returns the peak signal to noise ratio in dB, at most 100.

  Args:
    error: mean squared errors of images in [0, 1].
  """
  return -10.0 * np.log10(np.maximum(error, 1e-10))


class TestSet:
  """Test images on which states are measured, by one compiled function.

  Attributes:
    examples: the test images.
  """

  def __init__(
    self,
    examples: Examples,
    setup: types.Setup,
    classifier: types.Network | None,
    *,
    num_mechanisms: int,
    batch_size: int,
  ):
    self.examples = examples
    self._num_mechanisms = num_mechanisms
    self._batch_size = min(batch_size, len(examples.mechanism_N))

    # Missing arrays of an example are None, an empty tree to jax.
    @jax.jit
    def judge(state, classifier_params, clean_BHWC, x_BHWC, label_B):
      restored = competition.restore(state, x_BHWC, setup=setup)
      error_B, correct_B = None, {}
      if clean_BHWC is not None:
        error_B = losses.reconstruction_loss(restored.restored_BHWC, clean_BHWC)
      if clean_BHWC is not None and label_B is not None:
        correct_B = recognise(
          classifier_params, clean_BHWC, x_BHWC, restored, label_B
        )
      # The expert axis goes last, so that batches join along the first.
      return restored.score_EB.T, restored.winner_B, error_B, correct_B

    def recognise(classifier_params, clean_BHWC, x_BHWC, restored, label_B):
      predict = classifier_lib.classify(classifier)
      views = {
        "clean": clean_BHWC,
        "transformed": x_BHWC,
        "restored": restored.restored_BHWC,
      }
      return {
        name: predict(classifier_params, view_BHWC) == label_B
        for name, view_BHWC in views.items()
      }

    self._judge = judge

  def judge(
    self, state: types.TrainState, classifier_params: types.PyTree
  ) -> Judgement:
    """Applies the experts to all examples, batch by batch.

    Args:
      state: state of a run.
      classifier_params: parameters of the evaluation classifier.
    """
    examples = self.examples
    num_examples = len(examples.mechanism_N)
    parts = []
    for start in range(0, num_examples, self._batch_size):
      # The last batch is filled up from the front, and cut again below.
      ids = np.arange(start, start + self._batch_size) % num_examples
      part = self._judge(
        state,
        classifier_params,
        None if examples.clean_NHWC is None else examples.clean_NHWC[ids],
        examples.transformed_NHWC[ids],
        None if examples.label_N is None else examples.label_N[ids],
      )
      parts.append(jax.device_get(part))
    score_NE, winner_N, error_N, correct_N = jax.tree.map(
      lambda *leaves: np.concatenate(leaves)[:num_examples], *parts
    )
    return Judgement(score_NE.T, winner_N, error_N, correct_N)

  def evaluate(
    self, state: types.TrainState, classifier_params: types.PyTree
  ) -> dict[str, Any]:
    """Measures a state.

    Args:
      state: state of a run.
      classifier_params: parameters of the evaluation classifier.

    Returns:
      `wins_EM` (counts), `score_EM` (mean of the discriminator's probability,
      in [0, 1]), `coverage` and `matched`; with clean images, `psnr_db_M`; and
      with clean images and classes, the accuracies `accuracy/clean_M`,
      `accuracy/transformed_M` and `accuracy/restored_M`, in [0, 1].
    """
    judged = self.judge(state, classifier_params)
    mechanism_N = self.examples.mechanism_N
    one_hot_NM = np.eye(self._num_mechanisms)[mechanism_N]
    weight_NM = one_hot_NM / one_hot_NM.sum(axis=0)
    wins_EM = specialisation.count_wins(
      judged.winner_N,
      mechanism_N,
      num_experts=len(judged.score_EN),
      num_mechanisms=self._num_mechanisms,
    )
    probability_EN = np.exp(-np.logaddexp(0.0, -judged.score_EN))
    psnr = {}
    if judged.error_N is not None:
      psnr["psnr_db_M"] = psnr_db(judged.error_N @ weight_NM)
    return {
      "wins_EM": wins_EM,
      "score_EM": probability_EN @ weight_NM,
      "coverage": specialisation.coverage(wins_EM),
      "matched": specialisation.matched(wins_EM),
      **psnr,
      **{
        f"accuracy/{name}_M": correct_N @ weight_NM
        for name, correct_N in judged.correct_N.items()
      },
    }
