"""Experts on images of another data set than the one they were trained on."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from icm_jax import types
from icm_jax.competition import losses
from icm_jax.evaluation import restoration, specialisation


def evaluate(
  state: types.TrainState,
  examples: restoration.Examples,
  wins_EM: np.ndarray,
  names: Sequence[str],
  *,
  setup: types.Setup,
  batch_size: int,
) -> dict[str, dict[str, float | None]]:
  """Measures whether experts do to new images what they did to known ones.

  Args:
    state: of a run.
    examples: of the other data set, with clean images.
    wins_EM: counts on the run's own test images; they say which expert is a
      mechanism's own.
    names: M names.
    setup: of the run.
    batch_size: images at a time.

  Returns:
    By mechanism: `win_share` of its expert, in [0, 1]; `psnr_db` of its
    expert's outputs against the clean images, whoever won; and
    `best_other_psnr_db`, that of the expert which is nearest among all others,
    None where there is no other.
  """

  @jax.jit
  def judge(state, clean_BHWC, x_BHWC):
    restored = restoration.restore(state, x_BHWC, setup=setup)
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
    # The last batch is filled up from the front, and cut again below.
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
