"""A run whose experts undo their mechanisms by construction."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.configs import mnist
from icm_jax import competition, types
from icm_jax.learned import loading

SHAPE_HWC = (32, 32, 1)
MECHANISMS = ("right", "down", "invert")
COPY = len(MECHANISMS)  # The number of an expert that undoes nothing.


def learned() -> loading.Learned:
  """Three experts that undo the mechanisms of mnist.py:smoke, and a copy.

  The discriminator prefers bright pixels near the middle of a dark image.
  """
  config = mnist.get_config("smoke")
  pixels = config.mechanisms.shift.pixels

  def restore(params, stats, x_BHWC, *, train):
    del train
    undone = (
      jnp.roll(x_BHWC, -pixels, axis=2),
      jnp.roll(x_BHWC, -pixels, axis=1),
      1 - x_BHWC,
      x_BHWC,
    )
    return jnp.stack(undone)[params["number"]], stats

  def judge(params, stats, x_BHWC, *, train):
    del params, train
    side = np.linspace(-1, 1, SHAPE_HWC[0], dtype=np.float32) ** 2
    far_HW1 = (side[:, None] + side[None])[..., None]
    return -1000 * (x_BHWC * far_HW1[None]).mean(axis=(1, 2, 3)), stats

  setup = types.Setup(
    types.Network(lambda key: ({"number": jnp.zeros(())}, {}), restore),
    types.Network(lambda key: ({}, {}), judge),
    optax.sgd(0.1),
    optax.sgd(0.1),
  )
  state = competition.init_state(jax.random.key(0), setup, num_experts=4)
  numbers = jnp.arange(len(MECHANISMS) + 1)
  return loading.Learned(
    workdir=pathlib.Path("runs/toy"),
    config=config,
    steps=3,
    shape_HWC=SHAPE_HWC,
    mechanisms=MECHANISMS,
    result={"wins": np.eye(4, 3).tolist(), "margin": 0.5},
    setup=setup,
    state=state.replace(experts_E={"number": numbers}),
  )
