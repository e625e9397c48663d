"""A bonus for images in which experts change the same places as before.

Scores hardly tell which of several attributes a photograph carries: an expert
that changes little gets a good score for thin glasses that it does not remove.
But where experts change a photograph tells more. Every expert therefore
remembers where all experts changed the images that it won.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from icm_jax import devices, types
from icm_jax.competition.remedies import ranges, recent

# Cells along each side of an image. Glasses, hats and beards are in different
# rows of a face that fills the image.
CELLS = 4


class Places(NamedTuple):
  """Memory of `places`; F = E * CELLS**2 numbers describe an image.

  Attributes:
    place_EF: float32; row e has the mean standardised changes of all experts in
      all cells, for the images that expert e won recently.
    mean_F: float32, recent mean of the changes, in units of the pixel range.
    deviation_F: float32, their recent standard deviation within a batch.
  """

  place_EF: jax.Array
  mean_F: jax.Array
  deviation_F: jax.Array


export.register_namedtuple_serialization(
  Places, serialized_name="icm_jax.Places"
)


def places(weight: float) -> types.Remedy:
  """Raises the merit of an expert that won images changed in the same places.

  It works outside training too, where recent means and deviations take the
  place of the batch's.

  Args:
    weight: logits by which a mean squared distance of 1 from the remembered
      changes lowers the merit; more than 0.

  Raises:
    InputError: the weight is negative; or, with the first images, a side is
      shorter than `CELLS` pixels.
  """
  ranges.check("places.weight", weight, least=0)

  def init(memory, state, setup):
    del setup
    num_experts = jax.tree.leaves(state.experts_E)[0].shape[0]
    size = num_experts * CELLS**2
    start = Places(
      place_EF=jnp.zeros((num_experts, size), jnp.float32),
      mean_F=jnp.zeros(size, jnp.float32),
      deviation_F=jnp.ones(size, jnp.float32),
    )
    return {**memory, "places": start}

  def merit(merit_EB, state, seen):
    change_BF = changes(seen.batch.transformed_BHWC, seen.y_EBHWC)
    known_BF = _standardise(change_BF, *_scale(change_BF))
    return merit_EB + bonus(state.memory["places"].place_EF, known_BF, weight)

  def test_merit(merit_EB, state, seen):
    change_BF = changes(seen.batch.transformed_BHWC, seen.y_EBHWC)
    place_EF, mean_F, deviation_F = state.memory["places"]
    known_BF = _standardise(change_BF, mean_F, deviation_F)
    return merit_EB + bonus(place_EF, known_BF, weight)

  def after(state, seen, won):
    change_BF = changes(seen.batch.transformed_BHWC, seen.y_EBHWC)
    mean_F, deviation_F = _scale(change_BF)
    known_BF = _standardise(change_BF, mean_F, deviation_F)
    old = state.memory["places"]
    # The first batch replaces the start, which no image has.
    rate = jnp.where(state.step == 1, 1.0, 1.0 / recent.MEMORY)
    new = Places(
      recent.update_means(old.place_EF, known_BF, won.winner_B),
      old.mean_F + rate * (mean_F - old.mean_F),
      old.deviation_F + rate * (deviation_F - old.deviation_F),
    )
    return state.remember("places", new)

  def copied(memory, state, moved_E, donor_E):
    del state
    source_E = jnp.where(moved_E, donor_E, jnp.arange(donor_E.shape[0]))

    def follow(value_F):
      return value_F.reshape(donor_E.shape[0], -1)[source_E].reshape(-1)

    old = memory["places"]
    new = Places(
      jax.vmap(follow)(old.place_EF[source_E]),
      follow(old.mean_F),
      follow(old.deviation_F),
    )
    return {**memory, "places": new}

  return types.Remedy(
    "places",
    init=init,
    merit=merit,
    after=after,
    copied=copied,
    test_merit=test_merit,
  )


def changes(x_BHWC: jax.Array, y_EBHWC: jax.Array) -> jax.Array:
  """Returns how much every expert changes every cell of an image, [B, F].

  Args:
    x_BHWC: float in [0, 1], images.
    y_EBHWC: float in [0, 1], the experts' outputs.

  Returns:
    float32, mean absolute changes in units of the pixel range; those of the
    first expert come first, by rows. Pixels that do not divide into `CELLS`
    cells are left out, at the right and the lower edge.

  Raises:
    InputError: a side is shorter than `CELLS` pixels.
  """
  num_experts, num_images, height, width, _ = y_EBHWC.shape
  if min(height, width) < CELLS:
    raise types.InputError(
      f"The remedy places needs images of at least {CELLS}x{CELLS} pixels; got "
      f"{height}x{width}. Leave it out, or choose larger images."
    )
  high, wide = height // CELLS, width // CELLS
  x_BHWC, y_EBHWC = (a.astype(jnp.float32) for a in (x_BHWC, y_EBHWC))
  change_EBHW = jnp.abs(y_EBHWC - x_BHWC[None]).mean(axis=-1)
  cells = change_EBHW[:, :, : CELLS * high, : CELLS * wide].reshape(
    num_experts, num_images, CELLS, high, CELLS, wide
  )
  cells_EBF = cells.mean(axis=(3, 5)).reshape(num_experts, num_images, -1)
  cells_BEF = devices.gather(cells_EBF, expert=0, data=1).swapaxes(0, 1)
  return cells_BEF.reshape(cells_BEF.shape[0], -1)


def bonus(place_EF: jax.Array, known_BF: jax.Array, weight: float) -> jax.Array:
  """Returns the bonus, which is added to merits, [E, B] float32; at most 0.

  Args:
    place_EF: float32, see `Places`.
    known_BF: float32, standardised changes.
    weight: weight of `places`.
  """
  return -weight * jnp.mean((place_EF[:, None] - known_BF[None]) ** 2, axis=2)


def _scale(change_BF):
  """Returns mean and deviation of a batch's finite images, [F] each."""
  finite_B1 = jnp.isfinite(change_BF).all(axis=1, keepdims=True)
  count = jnp.maximum(finite_B1.sum(dtype=jnp.int32), 1)

  def mean_F(value_BF):
    total_F = jnp.where(finite_B1, value_BF, 0.0).sum(axis=0)
    return total_F / count.astype(total_F.dtype)

  middle_F = mean_F(change_BF)
  return middle_F, jnp.sqrt(mean_F((change_BF - middle_F[None]) ** 2))


def _standardise(change_BF, mean_F, deviation_F):
  return (change_BF - mean_F[None]) / (deviation_F[None] + 1e-6)
