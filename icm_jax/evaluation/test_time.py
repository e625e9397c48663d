"""Classifiers that adapt to the images that they are tested on.

Both methods need batch normalisation, and batches of images that one corruption
distorted; labels are not used. They are baselines of `experiments.robustness`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from icm_jax import types

# [N, H, W, C] images -> [N, K] logits
Classify = Callable[[np.ndarray], np.ndarray]


def frozen(
  network: types.Network,
  params: types.PyTree,
  stats: types.PyTree,
  *,
  batch_size: int,
) -> Classify:
  """Returns a classifier that does not adapt, in the form of those below."""

  @jax.jit
  def logits(x_BHWC):
    return network.apply(params, stats, x_BHWC, train=False)[0]

  return functools.partial(_by_batches, logits, batch_size=batch_size)


def with_batch_statistics(
  network: types.Network,
  params: types.PyTree,
  stats: types.PyTree,
  *,
  batch_size: int,
) -> Classify:
  """Normalises by the statistics of each batch (AdaBN; Schneider et al. 2020).

  Args:
    network: `[B, H, W, C] -> [B, K]` logits, with batch normalisation.
    params: its parameters.
    stats: its running statistics, which are not used.
    batch_size: images per batch.

  Returns:
    A function from float32 images in [0, 1], in the order in which they come,
    to logits.
  """

  @jax.jit
  def logits(x_BHWC):
    return network.apply(params, stats, x_BHWC, train=True)[0]

  return functools.partial(_by_batches, logits, batch_size=batch_size)


def tent(
  network: types.Network,
  params: types.PyTree,
  stats: types.PyTree,
  *,
  batch_size: int,
  learning_rate: float = 1e-3,
) -> Classify:
  """Lowers the entropy of its own predictions (TENT; Wang et al., ICLR 2021).

  It answers for a batch, and then changes the scales and offsets of batch
  normalisation by one update of Adam; the next batch finds them changed.
  Statistics are those of each batch.

  Args:
    network: as for `with_batch_statistics`.
    params: its parameters, from which every call starts.
    stats: its running statistics, which are not used.
    batch_size: images per update.
    learning_rate: of Adam.

  Returns:
    A function as that of `with_batch_statistics`.
  """
  adapted = jax.tree_util.tree_map_with_path(
    lambda path, _: any("BatchNorm" in str(key) for key in path), params
  )
  tx = optax.multi_transform(
    {True: optax.adam(learning_rate), False: optax.set_to_zero()}, adapted
  )

  @jax.jit
  def update(params, opt_state, x_BHWC):
    def entropy(params):
      logit_BK = network.apply(params, stats, x_BHWC, train=True)[0]
      log_p_BK = jax.nn.log_softmax(logit_BK)
      return -(jnp.exp(log_p_BK) * log_p_BK).sum(axis=-1).mean(), logit_BK

    grads, logit_BK = jax.grad(entropy, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, logit_BK

  def classify(image_NHWC):
    current, opt_state = params, tx.init(params)

    def answer(x_BHWC):
      nonlocal current, opt_state
      current, opt_state, logit_BK = update(current, opt_state, x_BHWC)
      return logit_BK

    return _by_batches(answer, image_NHWC, batch_size=batch_size)

  return classify


def _by_batches(answer, image_NHWC, *, batch_size):
  return np.concatenate(
    [
      np.asarray(answer(image_NHWC[start : start + batch_size]))
      for start in range(0, len(image_NHWC), batch_size)
    ]
  )
