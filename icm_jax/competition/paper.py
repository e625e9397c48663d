"""Algorithm 1 of Parascandolo et al. (ICML 2018), in its plainest form.

`step.py` computes the same faster; tests and benchmarks compare the two.
E experts compete for B images; arrays ending in `_E` have an axis of experts.
"""

import jax
import jax.numpy as jnp
import optax


def paper_step(state, batch, *, setup):
  """One update of experts and discriminator, as `competition_step` makes it."""
  x_BHWC, canonical_BHWC = batch

  def restore(params, stats):
    return setup.expert.apply(params, stats, x_BHWC, train=True)

  def score(discriminator, y_BHWC):
    return setup.discriminator.apply(discriminator, {}, y_BHWC, train=True)[0]

  # Every expert restores every image; the output with the best score wins it.
  y_EBHWC, stats_E = jax.vmap(restore)(state.experts_E, state.expert_stats_E)
  score_EB = jax.vmap(lambda y: score(state.discriminator, y))(y_EBHWC)
  won_EB = jax.nn.one_hot(score_EB.argmax(axis=0), len(y_EBHWC), axis=0)

  def expert_loss(params, stats, won_B):  # -log D(y) where the expert won.
    score_B = score(state.discriminator, restore(params, stats)[0])
    return jnp.mean(won_B * jax.nn.softplus(-score_B))

  def discriminator_loss(discriminator):  # Canonical is 1; every output is 0.
    fake_EB = jax.vmap(lambda y: score(discriminator, y))(y_EBHWC)
    real_B = score(discriminator, canonical_BHWC)
    return jax.nn.softplus(-real_B).mean() + jax.nn.softplus(fake_EB).mean()

  def update(tx, grads, opt_state, params):
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  def update_winner(params, stats, opt_state, new_stats, won_B):
    grads = jax.grad(expert_loss)(params, stats, won_B)
    new = (*update(setup.expert_tx, grads, opt_state, params), new_stats)
    keep = lambda new, old: jnp.where(won_B.any(), new, old)  # Losers stay.
    return jax.tree.map(keep, new, (params, opt_state, stats))

  experts_E, expert_opt_E, expert_stats_E = jax.vmap(update_winner)(
    state.experts_E, state.expert_stats_E, state.expert_opt_E, stats_E, won_EB
  )
  grads = jax.grad(discriminator_loss)(state.discriminator)
  discriminator, discriminator_opt = update(
    setup.discriminator_tx, grads, state.discriminator_opt, state.discriminator
  )
  return state.replace(
    step=state.step + 1,
    experts_E=experts_E,
    expert_stats_E=expert_stats_E,
    expert_opt_E=expert_opt_E,
    discriminator=discriminator,
    discriminator_opt=discriminator_opt,
  )
