"""A referee, which tells transformed from canonical images and helps to choose.

The discriminator has to tell outputs from canonical images, and soon looks for
the traces of experts. It then prefers the expert that changes an image least,
even if the mechanism is still in the image. The referee never sees outputs in
training, so that it looks for mechanisms; and no expert learns from it, so that
none learns to deceive it.

It helps outside training only. In training it would give most images to the
expert that learns first, whatever their mechanism.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from icm_jax import devices, rng, types
from icm_jax.competition import update
from icm_jax.competition.remedies import ranges

# Time constant of the averages in steps. Without them, a referee that learns at
# a constant rate judges differently after every 500 steps, and worse
# (docs/attributes_study.md).
_AVERAGED = 1_000.0


class Referee(NamedTuple):
  """Memory of `referee`.

  Attributes:
    params: parameters of its network.
    stats: running statistics of its network.
    opt: state of its optimizer.
    average: averages of `params` and `stats` over recent steps.
  """

  params: types.PyTree
  stats: types.PyTree
  opt: types.PyTree
  average: tuple[types.PyTree, types.PyTree]


export.register_namedtuple_serialization(
  Referee, serialized_name="icm_jax.Referee"
)


def referee(weight: float, *, network: types.Network) -> types.Remedy:
  """Raises, outside training, merits of outputs that look less transformed.

  The referee learns with every update, by the discriminator's optimizer, and
  judges by averages of its parameters over the last 1,000 steps or so.

  Args:
    weight: factor of the logits by which the referee finds an output more
      canonical than the image was; more than 0.
    network: `[B, H, W, C] -> [B, 1]` logits.

  Raises:
    InputError: the weight is negative.
  """
  ranges.check("referee.weight", weight, least=0)

  def init(memory, state, setup):
    params, stats = network.init(rng.stream(state.key, "referee"))
    opt = setup.discriminator_tx.init(params)
    # Copies, because a step that donates its state may not get a buffer twice.
    average = jax.tree.map(lambda a: a.copy(), (params, stats))
    return {**memory, "referee": Referee(params, stats, opt, average)}

  def after(state, seen, won):
    del won
    # A pixel that is not finite would stay in the parameters for ever.
    x_BHWC = jnp.concatenate(seen.batch)
    x_BHWC = jnp.where(jnp.isfinite(x_BHWC), x_BHWC, 0.0)
    params, stats, opt, average = state.memory["referee"]

    def loss(params):
      logit_B1, new_stats = network.apply(params, stats, x_BHWC, train=True)
      transformed_B1, canonical_B1 = jnp.split(logit_B1, 2)
      # Logits are high for canonical images.
      error = jax.nn.softplus(transformed_B1) + jax.nn.softplus(-canonical_B1)
      return error.mean(), new_stats

    grads, stats = jax.grad(loss, has_aux=True)(params)
    grads = devices.average(grads, devices.DATA)
    params, opt = update.descend(
      seen.setup.discriminator_tx.update, grads, opt, params
    )
    # At first this is the mean over all steps, of which the first is number 1.
    rate = jnp.maximum(1.0 / _AVERAGED, 1.0 / state.step.astype(jnp.float32))
    average = jax.tree.map(
      lambda a, b: a + rate * (b - a), average, (params, stats)
    )
    return state.remember("referee", Referee(params, stats, opt, average))

  def test_merit(merit_EB, state, seen):
    params, stats = state.memory["referee"].average
    # The gate compares merits with the discriminator's score of the image, so
    # that an output which equals its image must get no bonus.
    x_BHWC, y_EBHWC = seen.batch.transformed_BHWC, seen.y_EBHWC
    x_NBHWC = jnp.concatenate([x_BHWC[None], y_EBHWC.astype(x_BHWC.dtype)])
    flat_BHWC = x_NBHWC.reshape(-1, *x_BHWC.shape[1:])
    logit_B1, _ = network.apply(params, stats, flat_BHWC, train=False)
    logit_NB = logit_B1.reshape(x_NBHWC.shape[:2])
    return merit_EB + weight * (logit_NB[1:] - logit_NB[:1])

  return types.Remedy("referee", init=init, after=after, test_merit=test_merit)
