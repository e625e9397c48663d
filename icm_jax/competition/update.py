"""A step of an optimizer."""

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
    update: an optimizer's `update`. Where parameters have an expert axis, it is
      mapped over that axis, so that no expert's step depends on another's
      gradient.
    grads: gradient, with the structure of `params`.
    opt_state: state of the optimizer.
    params: parameters to move.

  Returns:
    The new parameters, in their own dtypes, and the optimizer's new state.
  """
  updates, opt_state = update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state
