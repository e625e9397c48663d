"""One step of an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from icm_jax import types


def descend(
  update: Callable[..., Any],
  grads: types.PyTree,
  opt_state: types.PyTree,
  params: types.PyTree,
) -> tuple[types.PyTree, types.PyTree]:
  """Moves parameters against their gradient.

  Args:
    update: of an optimizer; mapped, where parameters have an expert axis, so
      that no expert's step depends on another's gradient.
    grads: with the structure of `params`.
    opt_state: state of the optimizer.
    params: what moves.

  Returns:
    The parameters, in their own dtypes, and the state of the optimizer.
  """
  updates, opt_state = update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state
