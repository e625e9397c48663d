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
  """A batch as all experts and as the winners restored it.

  Attributes:
    output_EBHWC: float in [0, 1], every expert's output.
    score_EB: float32, merits by which winners were chosen: logits of the
      discriminator, where larger is more canonical; -inf for retired experts.
    winner_B: int32 in [0, E), the winner of each image.
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
  """Applies every expert, and takes the best output for each image.

  Running statistics are used and not changed. With the remedy `averages`, the
  averages take the place of the parameters. To put learned experts in front of
  another model, jit this function and take `restored_BHWC`.

  Args:
    state: state of the run; it is not changed and must not be donated.
    x_BHWC: float32 in [0, 1], images.
    setup: setup of the run, bound before jitting.

  Raises:
    InputError: images are not floats [B, H, W, C], or the state was made for
      other remedies.
  """
  check.check_images(x_BHWC)
  check.check_memory(state, setup)
  state = setup.through("test_state", state)
  over = expert_axis.map_leading
  apply = functools.partial(setup.expert.apply, train=False)
  output_EBHWC, _ = over(apply, (0, 0, None), mode=setup.expert_map)(
    state.experts_E, state.expert_stats_E, x_BHWC
  )
  score_EB = over(
    functools.partial(backward.score, setup, state.discriminator, train=False),
    (0,),
    mode=expert_axis.of_discriminator(setup.expert_map),
  )(output_EBHWC)
  batch = types.Batch(x_BHWC, canonical_BHWC=x_BHWC[:0])
  seen = types.Seen(setup, batch, output_EBHWC, score_EB)
  score_EB = setup.through("test_merit", score_EB, state, seen)
  winner_B = assign.assign_winners(score_EB).winner_B
  restored_BHWC = output_EBHWC[winner_B, jnp.arange(x_BHWC.shape[0])]
  return Restored(output_EBHWC, score_EB, winner_B, restored_BHWC)


def score(
  state: types.TrainState, x_BHWC: jax.Array, *, setup: types.Setup
) -> jax.Array:
  """Returns the discriminator's logits for images as they are, [B] float32.

  Args:
    state: state of the run; it is not changed and must not be donated.
    x_BHWC: float32 in [0, 1], images.
    setup: setup of the run, bound before jitting.

  Raises:
    InputError: images are not floats [B, H, W, C], or the state was made for
      other remedies.
  """
  check.check_images(x_BHWC)
  check.check_memory(state, setup)
  discriminator = setup.through("test_state", state).discriminator
  return backward.score(setup, discriminator, x_BHWC, train=False)
