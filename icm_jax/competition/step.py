"""The competition: one update, top to bottom."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from icm_jax import rng, types
from icm_jax.competition import (
  assign,
  average,
  content,
  expert_axis,
  losses,
  signature,
  slopes,
  winners,
)
from icm_jax.competition.relocation import relocate


def init_state(
  key: jax.Array, setup: types.Setup, num_experts: int
) -> types.TrainState:
  """Draws all parameters; every expert starts from a key of its own.

  Args:
    key: of the run; kept in the state.
    setup: networks and optimizers.
    num_experts: E, at least 1.

  Raises:
    InputError: E < 1, an unknown loss, a discriminator with running statistics,
      or losers that learn where outputs of winners weigh more.
  """
  losses.by_name(setup.loss)
  if setup.losers_learn and setup.winner_weight:
    raise types.InputError(
      "Where losers learn, no output may weigh more than another in the "
      f"discriminator's loss; set winner_weight to 0, not "
      f"{setup.winner_weight}."
    )
  if num_experts < 1:
    raise types.InputError(
      f"The number of experts must be at least 1; got {num_experts}."
    )
  key_E = jax.random.split(rng.stream(key, "experts"), num_experts)
  experts_E, expert_stats_E = jax.vmap(setup.expert.init)(key_E)
  discriminator, stats = setup.discriminator.init(
    rng.stream(key, "discriminator")
  )
  if jax.tree.leaves(stats):
    raise types.InputError(
      "The discriminator has running statistics, so that the score of an "
      "image would depend on the images beside it; use another "
      "normalisation, such as group, or none."
    )
  state = types.TrainState(
    step=jnp.zeros((), jnp.int32),
    key=key,
    experts_E=experts_E,
    expert_stats_E=expert_stats_E,
    expert_opt_E=jax.vmap(setup.expert_tx.init)(experts_E),
    discriminator=discriminator,
    discriminator_opt=setup.discriminator_tx.init(discriminator),
    win_share_E=jnp.full(num_experts, 1.0 / num_experts, jnp.float32),
    signature_EE=jnp.zeros((num_experts, num_experts), jnp.float32),
    moved_step_E=jnp.zeros(num_experts, jnp.int32),
    retired_E=jnp.zeros(num_experts, bool),
    average_experts_E=experts_E,
    average_discriminator=discriminator,
  )
  return average.restart(state)


def competition_step(
  state: types.TrainState, batch: types.Batch, *, setup: types.Setup
) -> tuple[types.TrainState, types.Metrics]:
  """One winner-take-all update (Parascandolo et al. 2018, Algorithm 1).

  Scores, winners and both gradients belong to the state before the update.

  Args:
    state: donated by whoever jits this.
    batch: transformed and canonical images, [B, H, W, C] each.
    setup: bound before jitting.

  Returns:
    The next state and metrics: `loss/expert`, `loss/discriminator` (scalars,
    nats), `competition/wins_E` (int32), `competition/moved_E` (bool).
  """
  x_BHWC, canonical_BHWC = batch
  loss = losses.by_name(setup.loss)
  over = functools.partial(expert_axis.map_leading, mode=setup.expert_map)

  # Every expert restores every image.
  parts = (setup.expert, state.experts_E, state.expert_stats_E, x_BHWC)
  y_EBHWC, stats_E, pullback = winners.restore(
    *parts, losers_learn=setup.losers_learn, mode=setup.expert_map
  )

  # What counts beside scores, if anything does.
  canonical, taken_EB = None, None
  if setup.identity or setup.criterion_identity:
    canonical = content.untouched(state, canonical_BHWC, setup=setup)
  if setup.criterion_identity or setup.criterion_cycle:
    taken_EB = content.criterion(state, y_EBHWC, canonical, setup=setup)

  # The discriminator scores all outputs; the best one takes the image, where
  # busy experts may carry a handicap, and those that know it by its scores may
  # have a bonus. It learns to tell all outputs, the losers' too, from canonical
  # images, and may have to stay smooth.
  def score(discriminator, y_BHWC):
    return setup.discriminator.apply(discriminator, {}, y_BHWC, train=True)[0]

  handicap_E = assign.handicap(
    state.win_share_E, state.retired_E, setup.balance
  )

  def discriminator_objective(discriminator, y_EBHWC):
    score_EB = over(score, (None, 0))(discriminator, y_EBHWC)
    merit_EB = score_EB if taken_EB is None else score_EB - taken_EB
    if setup.signature:
      merit_EB += signature.bonus(state.signature_EE, score_EB, setup.signature)
    won = assign.assign_winners(merit_EB, handicap_E)
    loss_B = losses.discriminator_loss(
      score_EB,
      score(discriminator, canonical_BHWC),
      won.winner_B,
      winner_weight=setup.winner_weight,
      loss=loss,
    )
    objective = loss_B.mean()
    if setup.r1:
      objective += setup.r1 * slopes.r1(score, discriminator, canonical_BHWC)
    if loss.interpolated:
      objective += loss.interpolated * slopes.interpolated(
        rng.stream(state.key, "interpolated", state.step),
        score,
        discriminator,
        canonical_BHWC,
        y_EBHWC[won.winner_B, jnp.arange(x_BHWC.shape[0])],
      )
    return objective, (won, score_EB)

  (discriminator_loss, (won, score_EB)), (discriminator_grads, slope_EBHWC) = (
    jax.value_and_grad(discriminator_objective, argnums=(0, 1), has_aux=True)(
      state.discriminator, y_EBHWC
    )
  )

  # Each winner learns, from the images it won, to look more canonical. What the
  # two losses ask of an output may differ by a factor only; then there is no
  # need to go through the discriminator again.
  won_BE = (won.winner_B, jnp.arange(x_BHWC.shape[0]))
  learned_from = slice(None) if setup.losers_learn else won_BE
  if loss.slope_ratio:
    ratio = losses.expert_to_discriminator_slope(
      score_EB[learned_from],
      score_EB.shape[0],
      winner_weight=setup.winner_weight,
      loss=loss,
    )
    cotangent = ratio[..., None, None, None] * slope_EBHWC[learned_from]
  else:
    cotangent = winners.output_gradient(
      functools.partial(score, state.discriminator),
      loss.winner,
      y_EBHWC[learned_from],
    )
  if setup.losers_learn:
    learning_E = jnp.ones_like(won.wins_E, bool)
    grads_E = pullback(cotangent)
  else:
    learning_E = won.wins_E > 0
    grads_E = winners.winners_gradient(
      *parts, cotangent, *won, mode=setup.expert_map, pullback=pullback
    )
  if setup.identity:
    grads_E = _sum(
      grads_E, content.identity_gradient(state, canonical, *won, setup=setup)
    )

  # Winners and the discriminator move; losers stay as they are.
  experts_E, expert_opt_E = _apply_gradients(
    jax.vmap(setup.expert_tx.update),
    grads_E,
    state.expert_opt_E,
    state.experts_E,
  )
  discriminator, discriminator_opt = _apply_gradients(
    setup.discriminator_tx.update,
    discriminator_grads,
    state.discriminator_opt,
    state.discriminator,
  )
  keep = functools.partial(expert_axis.select, learning_E)
  state = state.replace(
    step=state.step + 1,
    experts_E=keep(experts_E, state.experts_E),
    expert_stats_E=keep(stats_E, state.expert_stats_E),
    expert_opt_E=keep(expert_opt_E, state.expert_opt_E),
    discriminator=discriminator,
    discriminator_opt=discriminator_opt,
    win_share_E=assign.remember(
      state.win_share_E, won.wins_E / won.wins_E.sum()
    ),
    signature_EE=signature.remember(state.signature_EE, score_EB, won.winner_B),
  )
  moved_E = jnp.zeros_like(won.wins_E, bool)
  if setup.relocation.every:
    state, moved_E = relocate(state, setup.expert_tx, setup.relocation)
  state = average.update(state, moved_E, setup.average_steps)
  return state, {
    "loss/expert": loss.winner(score_EB[won_BE]).mean(),
    "loss/discriminator": discriminator_loss,
    "competition/wins_E": won.wins_E,
    "competition/moved_E": moved_E,
  }


def _sum(a_E, b_E):
  return jax.tree.map(jnp.add, a_E, b_E)


def _apply_gradients(update, grads, opt_state, params):
  updates, opt_state = update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state
