"""Times one update, and the same with the winners' backward pass unsorted.

  make bench

Prints one JSON object: medians in seconds, their ratio, and peak memory. The
networks are the paper's: 10 experts, batch 32, 32x32x1.
"""

import functools
import json
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from icm_jax import competition, models
from icm_jax.competition import expert_axis, winners

EXPERTS, BATCH, SHAPE, REPEATS = 10, 32, (32, 32, 1), 15


def every_expert_on_every_image(
  expert,
  experts_E,
  stats_E,
  x_BHWC,
  cotangent_BHWC,
  winner_B,
  wins_E,
  *,
  mode,
):
  """The winners' gradient as one would first write it, with a mask."""

  def winning(experts_E):
    apply = functools.partial(expert.apply, train=True)
    over = expert_axis.map_leading(apply, (0, 0, None), mode=mode)
    y_EBHWC, _ = over(experts_E, stats_E, x_BHWC)
    won_EB = winner_B[None, :] == jnp.arange(len(wins_E))[:, None]
    return jnp.where(won_EB[..., None, None, None], y_EBHWC, 0.0).sum(axis=0)

  return jax.vjp(winning, experts_E)[1](cotangent_BHWC)[0]


def main() -> None:
  setup = competition.Setup(
    expert=models.from_linen(models.ConvExpert(norm="none"), SHAPE),
    discriminator=models.from_linen(models.ConvDiscriminator(), SHAPE),
    expert_tx=optax.adam(1e-3),
    discriminator_tx=optax.adam(1e-3),
  )
  init = functools.partial(
    competition.init_state, setup=setup, num_experts=EXPERTS
  )
  state = jax.jit(init)(jax.random.key(0))
  keys = jax.random.split(jax.random.key(1))
  batch = competition.Batch(
    *(jax.random.uniform(key, (BATCH, *SHAPE)) for key in keys)
  )
  step = functools.partial(competition.competition_step, setup=setup)
  forms = {"ours_s": winners.winners_gradient}
  forms["unsorted_s"] = every_expert_on_every_image
  compiled = {}
  for name, gradient in forms.items():
    winners.winners_gradient = gradient
    compiled[name] = jax.jit(lambda s, b: step(s, b)).lower(state, batch)
    compiled[name] = compiled[name].compile()
    if name == "ours_s":
      jax.block_until_ready(compiled[name](state, batch))
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  times = {name: [] for name in forms}
  for _ in range(REPEATS):  # Interleaved, so that both see the same machine.
    for name, fn in compiled.items():
      start = time.perf_counter()
      jax.block_until_ready(fn(state, batch))
      times[name].append(time.perf_counter() - start)
  medians = {name: statistics.median(values) for name, values in times.items()}
  print(
    json.dumps(
      {
        "experts": EXPERTS,
        "batch": BATCH,
        "image": SHAPE,
        **{name: round(value, 4) for name, value in medians.items()},
        "ratio": round(medians["ours_s"] / medians["unsorted_s"], 3),
        "peak_gib": round(peak, 2),
      }
    )
  )


if __name__ == "__main__":
  main()
