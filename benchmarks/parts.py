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

from benchmarks import measured
from icm_jax import competition, types
from icm_jax.competition import backward, expert_axis, losses

EXPERTS, BATCH, IMAGE, REPEATS = 10, 32, (32, 32, 1), 15


def make_parts(setup, state, batch):
  """Returns the update and its parts: functions by name, and their arguments.

  Args:
    setup: setup of the update.
    state: state, or its shapes.
    batch: batch, or its shapes.
  """
  size, image = batch[0].shape[0], batch[0].shape[1:]
  experts = jax.tree.leaves(state.experts_E)[0].shape[0]

  def apply_experts(state, batch):
    return backward.apply_experts(state, batch[0], setup=setup).y_EBHWC

  def judge(discriminator, y_EBHWC, canonical_BHWC):
    score = functools.partial(backward.score, setup)
    mode = expert_axis.of_discriminator(setup.expert_map)
    over = expert_axis.map_leading(score, (None, 0), mode=mode)
    score_EB = over(discriminator, y_EBHWC)
    weight_EB = jnp.full_like(score_EB, 1 / experts)
    canonical_B = score(discriminator, canonical_BHWC)
    return losses.discriminator_loss(score_EB, canonical_B, weight_EB)

  def learn(state, x_BHWC, cotangent_BHWC):
    winner_B = jnp.arange(size, dtype=jnp.int32) % experts
    won = types.Assignment(winner_B, jnp.bincount(winner_B, length=experts))
    outputs = backward.apply_experts(state, x_BHWC, setup=setup)
    return backward.experts_gradient(
      state, x_BHWC, outputs, cotangent_BHWC, won, setup=setup
    )

  def optimize(state):
    updates_E, opt_E = jax.vmap(setup.expert_tx.update)(
      state.experts_E, state.expert_opt_E
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

  step = functools.partial(competition.competition_step, setup=setup)
  y_EBHWC = jax.ShapeDtypeStruct((experts, size, *image), jnp.float32)
  return {
    "step": (step, (state, batch)),
    "experts_forward": (apply_experts, (state, batch)),
    "discriminator_forward_backward": (
      jax.value_and_grad(judge, argnums=(0, 1)),
      (state.discriminator, y_EBHWC, batch[1]),
    ),
    "winners_forward_backward": (learn, (state, batch[0], batch[1])),
    "optimizers": (optimize, (state,)),
  }


def main() -> None:
  setup = measured.make_setup(IMAGE)
  state = measured.make_state(setup, EXPERTS)
  batch = measured.make_batch(BATCH, IMAGE)
  parts = make_parts(setup, state, batch)
  compiled = {
    name: jax.jit(fn).lower(*args).compile()
    for name, (fn, args) in parts.items()
  }
  zeros = lambda a: jnp.zeros(a.shape, a.dtype)
  arguments = {
    name: [
      zeros(arg) if isinstance(arg, jax.ShapeDtypeStruct) else arg
      for arg in args
    ]
    for name, (_, args) in parts.items()
  }
  times = {name: [] for name in parts}
  for _ in range(REPEATS + 1):
    for name, run in compiled.items():
      start = time.perf_counter()
      jax.block_until_ready(run(*arguments[name]))
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
