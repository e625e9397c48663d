"""Training of experts before they compete, each on its own."""

from __future__ import annotations

import functools

import jax

from icm_jax import devices, types
from icm_jax.competition import check, expert_axis, losses, update


def pretrain_step(
  state: types.TrainState,
  x_BHWC: jax.Array,
  target_BHWC: jax.Array,
  learning_E: jax.Array,
  *,
  setup: types.Setup,
) -> tuple[types.TrainState, jax.Array]:
  """Trains every expert on its own to turn images into targets.

  With the images themselves as targets, this is the identity start (Sec. 4 of
  the paper): experts learn to copy. With the originals of the images, which the
  method never sees, it shows what a network can learn from pairs.

  Args:
    state: state of the run.
    x_BHWC: float32 in [0, 1], transformed images.
    target_BHWC: float32 in [0, 1], outputs that experts should learn.
    learning_E: bool, experts that learn; the others stay bit-identical.
    setup: setup of the run, bound before jitting.

  Returns:
    The state with new experts and an unchanged step; and mse_E, float32, the
    mean squared error of each expert before this update, in squared units of
    [0, 1].

  Raises:
    InputError: images or targets are not floats [B, H, W, C] of one shape.
  """
  check.check_pair(x_BHWC, target_BHWC, names=("x_BHWC", "target_BHWC"))

  def gradient(params, stats, x_BHWC, target_BHWC):
    def objective(params):
      y_BHWC, new_stats = setup.expert.apply(params, stats, x_BHWC, train=True)
      return losses.reconstruction_loss(y_BHWC, target_BHWC).mean(), new_stats

    return jax.value_and_grad(objective, has_aux=True)(params)

  (mse_E, stats_E), grads_E = expert_axis.map_leading(
    gradient, (0, 0, None, None), mode=setup.expert_map
  )(state.experts_E, state.expert_stats_E, x_BHWC, target_BHWC)
  grads_E, mse_E = devices.average((grads_E, mse_E), devices.DATA)
  experts_E, opt_E = update.descend(
    jax.vmap(setup.expert_tx.update),
    grads_E,
    state.expert_opt_E,
    state.experts_E,
  )
  keep = functools.partial(expert_axis.select, learning_E)
  state = state.replace(
    experts_E=keep(experts_E, state.experts_E),
    expert_stats_E=keep(stats_E, state.expert_stats_E),
    expert_opt_E=keep(opt_E, state.expert_opt_E),
  )
  return state, devices.gather(mse_E, expert=0)
