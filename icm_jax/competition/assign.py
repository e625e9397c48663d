"""The assignment of images to experts."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from icm_jax import devices, types


def assign_winners(merit_EB: jax.Array) -> types.Assignment:
  """Gives each image to the expert with the highest merit (Sec. 3).

  Args:
    merit_EB: float, larger is better. Ties go to the expert with the lower
      index; NaN loses against every number.

  Returns:
    The assignment; no gradient flows into the merits.
  """
  chex.assert_rank(merit_EB, 2)
  merit_EB = jax.lax.stop_gradient(merit_EB)
  merit_EB = jnp.where(jnp.isnan(merit_EB), -jnp.inf, merit_EB)
  winner_B = jnp.argmax(merit_EB, axis=0).astype(jnp.int32)
  wins_E = jnp.bincount(winner_B, length=merit_EB.shape[0]).astype(jnp.int32)
  return types.Assignment(winner_B, wins_E)


def own_part(won: types.Assignment) -> types.Assignment:
  """Returns the assignment among the images and experts of this device.

  Args:
    won: assignment of all images to all experts.

  Returns:
    `winner_B` of the device's images, and `wins_E` of its experts on these
    images. An image that an expert of another device won has the number of
    experts as its winner, which is out of range.
  """
  if devices.number(devices.DATA, devices.EXPERT) == 1:
    return won
  num_experts = won.wins_E.shape[0] // devices.number(devices.EXPERT)
  first = devices.own(jnp.arange(won.wins_E.shape[0]), expert=0)[0]
  winner_B = devices.own(won.winner_B, data=0) - first
  is_own_B = (winner_B >= 0) & (winner_B < num_experts)
  winner_B = jnp.where(is_own_B, winner_B, num_experts)
  wins_E = jnp.bincount(winner_B, length=num_experts).astype(jnp.int32)
  return types.Assignment(winner_B, wins_E)
