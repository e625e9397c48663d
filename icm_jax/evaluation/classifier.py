"""Training of the evaluation classifier, on clean images."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from icm_jax import rng, types
from icm_jax.data import problem as problem_lib


def train_classifier(
  network: types.Network,
  problem: problem_lib.Problem,
  *,
  seed: int,
  steps: int,
  batch_size: int,
  learning_rate: float,
) -> types.PyTree:
  """Trains a classifier on all clean training images, both halves.

  Adam with a cosine decay to zero. The test part is never touched.

  Args:
    network: `[B, H, W, C] -> [B, K]` logits, without statistics.
    problem: gives images and labels; it must have labels.
    seed: of parameters and batches.
    steps: number of updates, at least 1.
    batch_size: images an update.
    learning_rate: at the start.

  Returns:
    The parameters.
  """
  tx = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params, opt_state, x_BHWC, label_B):
    def objective(params):
      x = problem_lib.to_float(x_BHWC)
      logit_BK, _ = network.apply(params, {}, x, train=True)
      return optax.softmax_cross_entropy_with_integer_labels(
        logit_BK, label_B
      ).mean()

    updates, opt_state = tx.update(jax.grad(objective)(params), opt_state)
    return optax.apply_updates(params, updates), opt_state

  params, _ = network.init(rng.stream(jax.random.key(seed), "classifier"))
  opt_state = tx.init(params)
  images = problem.images
  for step in range(steps):
    ids = problem_lib.draw_ids(
      problem.train_ids,
      seed=seed,
      name="classifier",
      step=step,
      batch_size=batch_size,
    )
    params, opt_state = update(
      params,
      opt_state,
      images.image_NHWC[ids],
      images.label_N[ids],
    )
  return params


def classify(
  network: types.Network,
) -> Callable[[types.PyTree, jax.Array], jax.Array]:
  """The predicted class of each image, [B] int32, as `(params, x_BHWC)`."""

  def predict(params, x_BHWC):
    logit_BK, _ = network.apply(params, {}, x_BHWC, train=False)
    return jnp.argmax(logit_BK, axis=-1).astype(jnp.int32)

  return predict
