"""Checks of the user's networks, images and parameters, at trace time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.competition import expert_axis


def check_setup(setup: types.Setup, num_experts: int) -> None:
  """Checks a setup before any parameters are drawn.

  Args:
    setup: networks, optimizers and remedies.
    num_experts: E.

  Raises:
    InputError: there is no expert, the expert map is unknown, a remedy is no
      `types.Remedy`, two remedies have the same name, or the number of losers
      is out of its range.
  """
  if num_experts < 1:
    raise types.InputError(
      f"The number of experts must be at least 1; got {num_experts}."
    )
  expert_axis.check(setup.expert_map)
  if isinstance(setup.remedies, types.Remedy) or not all(
    isinstance(remedy, types.Remedy) for remedy in setup.remedies
  ):
    raise types.InputError(
      "Expected a tuple of remedies, such as (remedies.balance(3.0),); got "
      f"{setup.remedies!r}."
    )
  if setup.losers is not None and setup.losers < 1:
    raise types.InputError(
      "The number of losers must be at least 1, or None for all; got "
      f"{setup.losers}."
    )
  if setup.losers is not None and setup.losers_learn:
    raise types.InputError(
      "With losers_learn, the discriminator must see all losers: losers must "
      f"be None; got {setup.losers}."
    )
  names = [remedy.name for remedy in setup.remedies]
  if len(set(names)) < len(names):
    raise types.InputError(
      f"Every remedy may be used once; got {', '.join(names)}."
    )


def check_key(key: jax.Array) -> None:
  """Checks that a key is a single typed one.

  Raises:
    InputError: it is not.
  """
  dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
  is_typed = dtype and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
  if not is_typed or shape != ():
    got = f"{dtype} of shape {shape}" if dtype else repr(key)
    raise types.InputError(
      f"Expected one typed key, such as jax.random.key(0); got {got}."
    )


def check_discriminator_stats(stats: types.PyTree) -> None:
  """Checks that a discriminator has no running statistics.

  Args:
    stats: statistics that its `init` returned.

  Raises:
    InputError: the discriminator has running statistics.
  """
  if jax.tree.leaves(stats):
    raise types.InputError(
      "The discriminator has running statistics, so that the score of an "
      "image would depend on the other images of its batch; use another "
      "normalisation, such as group, or none."
    )


def check_step(
  state: types.TrainState, batch: types.Batch, setup: types.Setup
) -> None:
  """Checks that images, networks and parameters fit together.

  The check looks at shapes and dtypes only, so that it costs nothing when the
  step runs.

  Args:
    state: state before the update.
    batch: images of the update.
    setup: setup of the run.

  Raises:
    InputError: they do not fit; says what was expected, and what came.
  """
  expert_axis.check(setup.expert_map)
  check_pair(*batch, names=batch._fields)
  check_memory(state, setup)
  _check_parameters("experts", state.experts_E)
  _check_parameters("discriminator", state.discriminator)
  x_BHWC = jax.ShapeDtypeStruct(
    batch.transformed_BHWC.shape, batch.transformed_BHWC.dtype
  )
  params, stats = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype),
    (state.experts_E, state.expert_stats_E),
  )
  result = _apply("expert", setup.expert, params, stats, x_BHWC)
  _check_expert(result, stats, x_BHWC)
  result = _apply(
    "discriminator", setup.discriminator, state.discriminator, {}, x_BHWC
  )
  _check_score(result, x_BHWC)


def check_images(x_BHWC: jax.Array, name: str = "x_BHWC") -> None:
  """Checks the dtype and the rank of images.

  Raises:
    InputError: they are not floats [B, H, W, C].
  """
  if x_BHWC.ndim != 4 or not jnp.issubdtype(x_BHWC.dtype, jnp.floating):
    raise types.InputError(
      f"Expected {name} to be floats in [0, 1] of shape [B, H, W, C]; got "
      f"{x_BHWC.dtype} of shape {x_BHWC.shape}. Divide uint8 images by 255."
    )


def check_pair(
  x_BHWC: jax.Array, other_BHWC: jax.Array, *, names: tuple[str, ...]
) -> None:
  """Checks two sets of images that go together.

  Raises:
    InputError: one is not of floats, or their shapes differ.
  """
  check_images(x_BHWC, names[0])
  check_images(other_BHWC, names[1])
  if x_BHWC.shape != other_BHWC.shape:
    raise types.InputError(
      f"Expected as many images in {names[1]} as in {names[0]}, of the same "
      f"size and channels; got {other_BHWC.shape} and {x_BHWC.shape}."
    )


def check_memory(state: types.TrainState, setup: types.Setup) -> None:
  """Checks that a state has what the remedies of a setup remember.

  Raises:
    InputError: it was made for other remedies.
  """
  fresh = jax.eval_shape(lambda s: setup.through("init", {}, s, setup), state)
  if missing := sorted(set(fresh) - set(state.memory)):
    raise types.InputError(
      f"The state remembers nothing for the remedies {', '.join(missing)}; it "
      "was made by init_state with another setup. init_memory adds them."
    )


def _check_parameters(name, params):
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise types.InputError(
        f"Expected floating point parameters of the {name}, which gradients "
        f"can move; got {leaf.dtype} at {jax.tree_util.keystr(path)}. Keep "
        "arrays that are not learned among the statistics."
      )


def _apply(name, network, params, stats, x_BHWC) -> Any:
  """Returns the shapes and dtypes of a network's results."""
  try:
    return jax.eval_shape(
      lambda *args: network.apply(*args, train=True), params, stats, x_BHWC
    )
  except types.InputError:
    raise
  # A user's network may raise any exception.
  except Exception as error:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise types.InputError(
      f"The {name} cannot be applied to images of shape {x_BHWC.shape}: "
      f"{reason[0]}"
    ) from error


def _is_pair(result) -> bool:
  return isinstance(result, tuple) and len(result) == 2


def _check_expert(result, stats_before, x_BHWC):
  if not _is_pair(result):
    raise types.InputError(
      "Expected an expert's apply to return (y, stats), where stats are those "
      f"that it was given if it has none; got {jax.tree.structure(result)}."
    )
  y, stats = result
  if not hasattr(y, "shape") or y.shape != x_BHWC.shape:
    raise types.InputError(
      f"Expected an expert's output to have its input's shape {x_BHWC.shape}; "
      f"got {getattr(y, 'shape', type(y).__name__)}."
    )
  shapes = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)
  if shapes(stats) != shapes(stats_before):
    raise types.InputError(
      "Expected an expert's statistics to keep their structure, shapes and "
      f"dtypes, {shapes(stats_before)}; got {shapes(stats)}."
    )


def _check_score(result, x_BHWC):
  wanted = x_BHWC.shape[:1]
  if not _is_pair(result) or getattr(result[0], "shape", None) != wanted:
    got = result[0] if _is_pair(result) else result
    raise types.InputError(
      "Expected a discriminator's apply to return (score_B, stats), one score "
      f"per image, of shape {wanted}; got "
      f"{getattr(got, 'shape', jax.tree.structure(got))}."
    )
