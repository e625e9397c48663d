"""One update of the competition, in its fast form, with remedies."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from icm_jax import devices, types
from icm_jax.competition import (
  assign,
  backward,
  check,
  expert_axis,
  judging,
  losses,
  update,
)


def competition_step(
  state: types.TrainState, batch: types.Batch, *, setup: types.Setup
) -> tuple[types.TrainState, types.Metrics]:
  """One winner-take-all update (Parascandolo et al. 2018, Algorithm 1).

  Without remedies, and with all losers, it computes what `paper.paper_step`
  does, faster. Scores, winners and both gradients belong to the state before
  the update. It may be divided over the axes of `icm_jax.devices` by
  `jax.shard_map` with `check_vma=False`: every device then has a part of the
  images and experts, all devices know all scores and winners, and gradients are
  combined.

  Args:
    state: state before the update; callers that jit this may donate it.
    batch: transformed and canonical images, [B, H, W, C] each.
    setup: setup of the run, bound before jitting.

  Returns:
    The next state; and metrics: `loss/expert`, `loss/discriminator` (scalars,
    nats), `competition/wins_E` (int32), and those that remedies report.

  Raises:
    InputError: images, networks and parameters do not fit together.
  """
  batch = types.Batch(*map(jnp.asarray, batch))  # NumPy's arrays, too.
  check.check_step(state, batch, setup)
  x_BHWC = batch.transformed_BHWC

  # 1. Restore: every expert restores every image.
  outputs = backward.apply_experts(state, x_BHWC, setup=setup)
  seen = types.Seen(setup, batch, outputs.y_EBHWC)

  # 2. Score and assign: the output with the largest merit takes the image.
  judged = judging.judge(state, seen)
  score_EB = devices.gather(judged.score_EB, expert=0, data=1)
  seen = seen._replace(score_EB=score_EB)
  merit_EB = setup.through("merit", score_EB, state, seen)
  won = assign.assign_winners(merit_EB)

  # 3. Learn: the discriminator learns to tell outputs, the losers' too, from
  # canonical images; each winner learns to make its images look more canonical.
  # One backward pass through the discriminator serves both.
  passes = judged.teach(won)
  weight_EB = jnp.full_like(score_EB, 1.0 / score_EB.shape[0])
  weight_EB = setup.through("weight", weight_EB, won)
  discriminator_loss, slopes = jax.value_and_grad(
    losses.discriminator_loss, argnums=(0, 1)
  )(
    devices.own(score_EB, data=1),
    devices.gather(passes.canonical_B, expert=0),
    devices.own(weight_EB, data=1),
  )
  slopes = (devices.own(slope, expert=0) for slope in slopes)
  objective = passes.objective
  part = jnp.full_like(objective, 1.0 / devices.number(devices.EXPERT))
  discriminator_grads, slope = passes.pullback(*slopes, part)
  discriminator_grads = devices.gradient(discriminator_grads)
  chosen, learning_E = backward.learners(won, setup)
  own_weight_EB = devices.own(weight_EB, expert=0, data=1)
  ratio = losses.slope_ratio(judged.score_EB[chosen], own_weight_EB[chosen])
  cotangent = backward.scale_images(slope, ratio)
  cotangent = setup.through("cotangent", cotangent, state, seen, won)
  grads_E = backward.experts_gradient(
    state, x_BHWC, outputs, cotangent, won, setup=setup
  )
  grads_E = setup.through("gradient", grads_E, state, seen, won)
  grads_E = devices.average(grads_E, devices.DATA)

  # 4. Move: winners and the discriminator move; losers stay as they are.
  experts_E, expert_opt_E = update.descend(
    jax.vmap(setup.expert_tx.update),
    grads_E,
    state.expert_opt_E,
    state.experts_E,
  )
  discriminator, discriminator_opt = update.descend(
    setup.discriminator_tx.update,
    discriminator_grads,
    state.discriminator_opt,
    state.discriminator,
  )
  keep = functools.partial(expert_axis.select, learning_E)
  state = state.replace(
    step=state.step + 1,
    experts_E=keep(experts_E, state.experts_E),
    expert_stats_E=keep(outputs.stats_E, state.expert_stats_E),
    expert_opt_E=keep(expert_opt_E, state.expert_opt_E),
    discriminator=discriminator,
    discriminator_opt=discriminator_opt,
  )

  # 5. Remember: remedies update their memory.
  state = setup.through("after", state, seen, won)
  winners_score_B = score_EB[won.winner_B, jnp.arange(won.winner_B.shape[0])]
  metrics = {
    "loss/expert": losses.expert_loss(winners_score_B).mean(),
    "loss/discriminator": devices.average(discriminator_loss, devices.DATA)
    + devices.average(objective, devices.DATA, devices.EXPERT),
    "competition/wins_E": won.wins_E,
  }
  return state, setup.through("report", metrics, state)
