"""Training of the evaluation's classifiers, on clean images."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from icm_jax import rng, types
from icm_jax.data import augment
from icm_jax.data import problem as problem_lib

# (logit_BK, targets of the batch) -> mean loss over the batch.
Loss = Callable[[jax.Array, Any], jax.Array]
# (image_BHWC, number of the update) -> [V * B, H, W, C], uint8: V views of a
# batch, one after another.
Views = Callable[[np.ndarray, int], np.ndarray]


def cross_entropy(logit_BK: jax.Array, label_B: jax.Array) -> jax.Array:
  """Mean cross entropy of images with one class each."""
  return optax.softmax_cross_entropy_with_integer_labels(
    logit_BK, label_B
  ).mean()


def train_classifier(
  network: types.Network,
  image_NHWC: np.ndarray,
  target_N: types.PyTree,
  ids: np.ndarray,
  *,
  loss: Loss = cross_entropy,
  augmentation: augment.Augmentation = augment.NONE,
  views: Views | None = None,
  seed: int,
  steps: int,
  batch_size: int,
  learning_rate: float,
) -> tuple[types.PyTree, types.PyTree]:
  """Trains a classifier on some clean images.

  The optimizer is Adam with a cosine decay to zero. Only images in `ids` are
  read.

  Args:
    network: `[B, H, W, C] -> [B, K]` logits.
    image_NHWC: uint8, all images of a data set.
    target_N: targets of the loss, with a leading axis of all images: classes,
      int32 in [0, K), for cross entropy.
    ids: images to train on, such as `problem.train_ids`.
    loss: a pure function.
    augmentation: range of random variations of the images.
    views: makes what the network sees of a batch's images; `loss` then receives
      the logits of all views, [V * B, K]. None shows the images themselves.
    seed: seed of parameters, batches and variations.
    steps: number of updates, at least 1.
    batch_size: images per update; at most as many as there are ids.
    learning_rate: learning rate at the start.

  Returns:
    The parameters; and running statistics, {} of a network that has none.
  """
  tx = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
  key = jax.random.key(seed)

  @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
  def update(params, stats, opt_state, x_BHWC, target_B, step):
    x_BHWC = problem_lib.to_float(x_BHWC)
    if augmentation != augment.NONE:
      x_BHWC = augment.augment(
        rng.stream(key, "augment classifier", step), x_BHWC, augmentation
      )

    def objective(params):
      logit_BK, new_stats = network.apply(params, stats, x_BHWC, train=True)
      return loss(logit_BK, target_B), new_stats

    grads, stats = jax.grad(objective, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state)
    return optax.apply_updates(params, updates), stats, opt_state

  params, stats = network.init(rng.stream(key, "classifier"))
  opt_state = tx.init(params)
  for step in range(steps):
    ids_B = problem_lib.draw_ids(
      ids, seed=seed, name="classifier", step=step, batch_size=batch_size
    )
    image_BHWC = image_NHWC[ids_B]
    params, stats, opt_state = update(
      params,
      stats,
      opt_state,
      image_BHWC if views is None else views(image_BHWC, step),
      jax.tree.map(operator.itemgetter(ids_B), target_N),
      jnp.int32(step),
    )
  return params, stats


def classify(
  network: types.Network,
) -> Callable[[types.PyTree, jax.Array], jax.Array]:
  """Returns a function `(params, x_BHWC)` to predicted classes, [B] int32.

  Args:
    network: a classifier without statistics.
  """

  def predict(params, x_BHWC):
    logit_BK, _ = network.apply(params, {}, x_BHWC, train=False)
    return jnp.argmax(logit_BK, axis=-1).astype(jnp.int32)

  return predict
