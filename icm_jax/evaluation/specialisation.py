"""Measures of specialisation, from a table of experts' wins by mechanism."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.optimize

# A mechanism is learned if its main expert wins at least this share of it.
LEARNED_SHARE = 0.9


def count_wins(
  winner_N: np.ndarray,
  mechanism_N: np.ndarray,
  *,
  num_experts: int,
  num_mechanisms: int,
) -> np.ndarray:
  """Counts how often each expert won an image of each mechanism.

  Args:
    winner_N: int in [0, E), the expert that won each image.
    mechanism_N: int in [0, M), the mechanism of each image.
    num_experts: E.
    num_mechanisms: M.

  Returns:
    Counts, [E, M] int.
  """
  wins_EM = np.zeros((num_experts, num_mechanisms), int)
  np.add.at(wins_EM, (winner_N, mechanism_N), 1)
  return wins_EM


def main_share(wins_EM: np.ndarray) -> np.ndarray:
  """Share of each mechanism's images that its main expert won, [M]."""
  return wins_EM.max(axis=0) / np.maximum(wins_EM.sum(axis=0), 1)


def coverage(wins_EM: np.ndarray) -> float:
  """Share of all images that went to their mechanism's main expert.

  An expert may be the main one of several mechanisms here.
  """
  return float(wins_EM.max(axis=0).sum() / max(wins_EM.sum(), 1))


def matched(wins_EM: np.ndarray) -> float:
  """Share of all images that went to their mechanism's own expert.

  Own experts are those of the one-to-one assignment with the largest share.
  """
  pairs = scipy.optimize.linear_sum_assignment(wins_EM, maximize=True)
  return float(wins_EM[pairs].sum() / max(wins_EM.sum(), 1))


def owned(wins_EM: np.ndarray) -> np.ndarray:
  """Whether each mechanism was learned by an expert of its own, [M] bool.

  This holds if its main expert wins at least `LEARNED_SHARE` of its images, and
  is the main expert of no other mechanism.
  """
  main_M = wins_EM.argmax(axis=0)
  alone_M = (main_M[:, None] == main_M[None, :]).sum(axis=1) == 1
  return alone_M & (main_share(wins_EM) >= LEARNED_SHARE)


def one_to_one(wins_EM: np.ndarray) -> bool:
  """True if every mechanism was learned by an expert of its own."""
  return bool(owned(wins_EM).all())


def active(wins_EM: np.ndarray) -> np.ndarray:
  """Whether each expert is active, [E] bool; the others are idle.

  An expert is active if it is the main expert of a mechanism, or wins so much
  of one (more than 1 - `LEARNED_SHARE`) that no other expert can learn it.
  """
  share_EM = wins_EM / np.maximum(wins_EM.sum(axis=0), 1)
  active_E = (share_EM > 1.0 - LEARNED_SHARE).any(axis=1)
  active_E[wins_EM.argmax(axis=0)] = True
  return active_E


def found_steps(steps: Sequence[int], wins_TEM: np.ndarray) -> list[int | None]:
  """Step at which each mechanism was found.

  Args:
    steps: T >= 1 numbers of completed updates, ascending.
    wins_TEM: counts after these numbers of updates.

  Returns:
    M numbers: the first step from which the mechanism's main expert of the last
    step wins at least `LEARNED_SHARE` of its images. None if the mechanism has
    no expert of its own at the last step, see `owned`.
  """
  share_TEM = wins_TEM / np.maximum(wins_TEM.sum(axis=1, keepdims=True), 1)
  main_M = wins_TEM[-1].argmax(axis=0)
  found = []
  for m, own in enumerate(owned(wins_TEM[-1])):
    lost_T = share_TEM[:, main_M[m], m] < LEARNED_SHARE
    first = int(np.flatnonzero(lost_T)[-1]) + 1 if lost_T.any() else 0
    found.append(int(steps[first]) if own else None)
  return found
