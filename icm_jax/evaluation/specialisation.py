"""Which expert took which mechanism, from a table of wins."""

from __future__ import annotations

import numpy as np
import scipy.optimize

# A mechanism is learned by its main expert if that wins this share of it.
LEARNED_SHARE = 0.9


def count_wins(
  winner_N: np.ndarray,
  mechanism_N: np.ndarray,
  *,
  num_experts: int,
  num_mechanisms: int,
) -> np.ndarray:
  """Counts, [E, M] int, how often an expert won an image of a mechanism.

  Args:
    winner_N: int in [0, E).
    mechanism_N: int in [0, M).
    num_experts: E.
    num_mechanisms: M.
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

  Experts and mechanisms are paired one to one so that the share is largest.
  """
  pairs = scipy.optimize.linear_sum_assignment(wins_EM, maximize=True)
  return float(wins_EM[pairs].sum() / max(wins_EM.sum(), 1))


def owned(wins_EM: np.ndarray) -> np.ndarray:
  """Which mechanisms were learned by an expert of their own, [M] bool.

  Their main expert wins at least `LEARNED_SHARE` of them, and is the main
  expert of no other mechanism.
  """
  main_M = wins_EM.argmax(axis=0)
  alone_M = (main_M[:, None] == main_M[None, :]).sum(axis=1) == 1
  return alone_M & (main_share(wins_EM) >= LEARNED_SHARE)


def one_to_one(wins_EM: np.ndarray) -> bool:
  """True if every mechanism was learned by an expert of its own."""
  return bool(owned(wins_EM).all())
