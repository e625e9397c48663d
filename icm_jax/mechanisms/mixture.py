"""Transformed images: one mechanism acts on each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

# (key, x_HWC) -> x_HWC
Mechanism = Callable[[jax.Array, jax.Array], jax.Array]


def apply_mixture(
  key: jax.Array, x_BHWC: jax.Array, mechanisms: Sequence[Mechanism]
) -> tuple[jax.Array, jax.Array]:
  """Transforms each image by one mechanism, drawn uniformly.

  Args:
    key: consumed.
    x_BHWC: float32 in [0, 1].
    mechanisms: the M mechanisms to draw from.

  Returns:
    The transformed images, float32 in [0, 1], same shape; and id_B, int32, the
    mechanism of each image. The ids are for evaluation: training never sees
    them.
  """
  id_key, image_key = jax.random.split(key)
  id_B = jax.random.randint(
    id_key, x_BHWC.shape[:1], 0, len(mechanisms), dtype="int32"
  )
  return apply_each(image_key, x_BHWC, id_B, mechanisms), id_B


def apply_each(
  key: jax.Array,
  x_BHWC: jax.Array,
  id_B: jax.Array,
  mechanisms: Sequence[Mechanism],
) -> jax.Array:
  """Transforms each image by a given mechanism.

  Args:
    key: consumed.
    x_BHWC: float32 in [0, 1].
    id_B: int32 in [0, M), the mechanism of each image.
    mechanisms: the M mechanisms, in the order of their numbers.

  Returns:
    float32 in [0, 1], same shape.
  """
  key_B = jax.random.split(key, x_BHWC.shape[0])

  def one(mechanism_id, key, x_HWC):
    return jax.lax.switch(mechanism_id, mechanisms, key, x_HWC)

  return jax.vmap(one)(id_B, key_B, x_BHWC)
