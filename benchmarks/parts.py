"""Times the parts of an update, each compiled separately.

  make bench-parts

Prints one JSON object: median milliseconds of the whole update and of its
parts, run in turns, for 10 experts, batch 32, 32x32x1. `rest_ms` is the
difference between the whole and the parts: assignment, averages, copies in
memory.
"""

import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from benchmarks import step as step_lib
from icm_jax import competition
from icm_jax.competition import expert_axis, losses, winners

EXPERTS, BATCH, IMAGE, REPEATS = 10, 32, (32, 32, 1), 15


def main() -> None:
  setup = step_lib.make_setup(IMAGE)
  state = step_lib.make_state(setup, EXPERTS)
  batch = step_lib.make_batch(BATCH, IMAGE)
  x_BHWC = batch.transformed_BHWC
  winner_B = jnp.arange(BATCH) % EXPERTS
  wins_E = jnp.bincount(winner_B, length=EXPERTS)
  over = functools.partial(expert_axis.map_leading, mode=setup.expert_map)

  def experts(experts_E):
    apply = lambda p, x: setup.expert.apply(p, {}, x, train=True)[0]
    return over(apply, (0, None))(experts_E, x_BHWC)

  def score(discriminator, y_BHWC):
    return setup.discriminator.apply(discriminator, {}, y_BHWC, train=True)[0]

  def discriminator(discriminator, y_EBHWC):
    score_EB = over(score, (None, 0))(discriminator, y_EBHWC)
    real_B = score(discriminator, batch.canonical_BHWC)
    return losses.discriminator_loss(score_EB, real_B, winner_B).mean()

  def backward(experts_E):
    return winners.winners_gradient(
      setup.expert,
      experts_E,
      {},
      x_BHWC,
      x_BHWC,
      winner_B,
      wins_E,
      mode=setup.expert_map,
      pullback=None,
    )

  def optimize(state, grads_E):
    updates_E, opt_E = jax.vmap(setup.expert_tx.update)(
      grads_E, state.expert_opt_E
    )
    updates, opt = setup.discriminator_tx.update(
      state.discriminator, state.discriminator_opt
    )
    return (
      optax.apply_updates(state.experts_E, updates_E),
      opt_E,
      optax.apply_updates(state.discriminator, updates),
      opt,
    )

  y_EBHWC = jax.jit(experts)(state.experts_E)
  grads_E = jax.jit(backward)(state.experts_E)
  step = functools.partial(competition.competition_step, setup=setup)
  parts = {
    "step": (step, (state, batch)),
    "experts_forward": (experts, (state.experts_E,)),
    "discriminator_forward_backward": (
      jax.value_and_grad(discriminator, argnums=(0, 1)),
      (state.discriminator, y_EBHWC),
    ),
    "winners_forward_backward": (backward, (state.experts_E,)),
    "optimizers": (optimize, (state, grads_E)),
  }
  compiled = {
    name: (jax.jit(fn).lower(*args).compile(), args)
    for name, (fn, args) in parts.items()
  }
  times = {name: [] for name in parts}
  for _ in range(REPEATS + 1):
    for name, (fn, args) in compiled.items():
      start = time.perf_counter()
      jax.block_until_ready(fn(*args))
      times[name].append(time.perf_counter() - start)
  medians = {
    name: statistics.median(seconds[1:]) * 1e3  # The first run is slower.
    for name, seconds in times.items()
  }
  rest = 2 * medians["step"] - sum(medians.values())
  row = {f"{name}_ms": round(value, 1) for name, value in medians.items()}
  print(json.dumps({**row, "rest_ms": round(rest, 1)}))


if __name__ == "__main__":
  main()
