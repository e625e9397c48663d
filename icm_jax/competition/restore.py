"""Images as learned experts restore them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from icm_jax import types
from icm_jax.competition import assign, backward, check, expert_axis


class Restored(NamedTuple):
  """A batch after the experts.

  Attributes:
    output_EBHWC: float in [0, 1], every expert's output.
    score_EB: float32 merits by which winners were chosen: logits of the
      discriminator, larger is more canonical; -inf for retired experts.
    winner_B: int32 in [0, E).
    restored_BHWC: float in [0, 1], the winners' outputs.
  """

  output_EBHWC: jax.Array
  score_EB: jax.Array
  winner_B: jax.Array
  restored_BHWC: jax.Array


export.register_namedtuple_serialization(
  Restored, serialized_name="icm_jax.Restored"
)


def restore(
  state: types.TrainState, x_BHWC: jax.Array, *, setup: types.Setup
) -> Restored:
  """Applies every expert and takes the best output, image by image.

  Running statistics are used, and nothing is changed. With the remedy
  `averages`, parameters are those averages. To put learned experts in front of
  a model of your own, jit this and take `restored_BHWC`.

  Args:
    state: read, not donated.
    x_BHWC: float32 in [0, 1].
    setup: bound before jitting.

  Raises:
    InputError: images are not floats [B, H, W, C], or the state was made for
      other remedies.
  """
  check.check_images(x_BHWC)
  check.check_memory(state, setup)
  state = setup.through("test_state", state)
  over = functools.partial(expert_axis.map_leading, mode=setup.expert_map)
  apply = functools.partial(setup.expert.apply, train=False)
  output_EBHWC, _ = over(apply, (0, 0, None))(
    state.experts_E, state.expert_stats_E, x_BHWC
  )
  score_EB = over(
    functools.partial(backward.score, setup, state.discriminator, train=False),
    (0,),
  )(output_EBHWC)
  score_EB = setup.through("test_merit", score_EB, state)
  winner_B = assign.assign_winners(score_EB).winner_B
  restored_BHWC = output_EBHWC[winner_B, jnp.arange(x_BHWC.shape[0])]
  return Restored(output_EBHWC, score_EB, winner_B, restored_BHWC)


def score(
  state: types.TrainState, x_BHWC: jax.Array, *, setup: types.Setup
) -> jax.Array:
  """Logits of the discriminator for images as they are, [B] float32.

  Args:
    state: read, not donated.
    x_BHWC: float32 in [0, 1].
    setup: bound before jitting.

  Raises:
    InputError: as of `restore`.
  """
  check.check_images(x_BHWC)
  check.check_memory(state, setup)
  discriminator = setup.through("test_state", state).discriminator
  return backward.score(setup, discriminator, x_BHWC, train=False)
