"""Bouncing balls: predict frames, with more balls in tests than in training.

The task follows Sec. 4.3 of the RIM paper (arXiv 1909.10893) with a simulation
of this project. Balls are discs of equal mass that collide elastically with
walls and with each other, so that collisions between balls conserve momentum
and energy.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from icm_jax import types
from icm_jax.rim.tasks import base

# Simulation steps per frame; at its initial speed, a ball moves less than its
# radius in each of them.
_SUBSTEPS = 4
# Distance that a ball moves per frame, as a share of a frame's side.
_SPEED = 0.05
# Left and right edge of the curtain, as shares of a frame's width.
_CURTAIN = (0.4, 0.6)

VARIANTS = ("4 balls", "6-8 balls", "curtain")
_COUNTS = {"4 balls": (4, 4), "6-8 balls": (6, 8), "curtain": (4, 4)}


def make_balls(
  *, pixels: int, radius: float, seen: int, unseen: int
) -> base.Task:
  """Makes sequences of binary frames; the target of a step is the next frame.

  The measure uses autoregressive predictions: after the frames that a test
  shows, the model reads its own outputs, as probabilities.

  Args:
    pixels: pixels per side of a frame.
    radius: radius of a ball as a share of a frame's side, in [0.02, 0.16].
    seen: number of frames that a test shows.
    unseen: number of frames that are then predicted.

  Raises:
    InputError: a value is out of range.
  """
  base.check_lengths("balls", (seen,), 1)
  base.check_lengths("balls", (unseen,), 1)
  base.check_lengths("balls", (pixels,), 1)
  if not 0.02 <= radius <= 0.16:
    raise types.InputError(
      "A ball's radius must be in [0.02, 0.16], as a share of a frame's side; "
      f"got {radius}."
    )
  num_frames = seen + unseen

  def draw(key, variant, batch_size, part):
    del part  # Sequences are drawn anew, so both parts use one distribution.
    keys = jax.random.split(key, batch_size)
    least, most = _COUNTS[variant]

    def one(key):
      count_key, place_key = jax.random.split(key)
      count = jax.random.randint(count_key, (), least, most + 1)
      places = simulate(place_key, most, radius, num_frames)
      frame_THW = render(places, jnp.arange(most) < count, pixels, radius)
      if variant == "curtain":
        column_W = (jnp.arange(pixels) + 0.5) / pixels
        open_W = (column_W < _CURTAIN[0]) | (column_W > _CURTAIN[1])
        frame_THW = frame_THW * open_W[None, None, :]
      return frame_THW.reshape(num_frames, -1)

    frame_BTF = jax.vmap(one)(keys)
    return base.Sequences(
      frame_BTF[:, :-1],
      frame_BTF[:, 1:],
      base.only_last(batch_size, num_frames - 1, num_frames - 1),
    )

  def measure(apply, sequences):
    return rollout_cross_entropy(apply, sequences, seen)

  return base.Task(
    name="balls",
    num_inputs=pixels * pixels,
    num_outputs=pixels * pixels,
    variants=VARIANTS,
    draw=draw,
    loss=binary_cross_entropy,
    measure=measure,
    measure_name="cross entropy of a predicted frame's pixels, nats",
    higher_is_better=False,
  )


def binary_cross_entropy(y_BTO, sequences):
  """Cross entropy of logits in nats, mean over pixels and steps that count."""
  target_BTO = sequences.target
  loss_BTO = jax.nn.softplus(y_BTO) - y_BTO * target_BTO
  return (loss_BTO.mean(axis=-1) * sequences.weight_BT).sum(axis=1)


def rollout_cross_entropy(apply, sequences, seen):
  """Binary cross entropy of frames after the first `seen`, [B], nats.

  Each of these frames is predicted from the predictions before it. The model
  reads the whole sequence again for every frame, which works for any causal
  model; later frames do not affect earlier outputs.
  """
  num_steps = sequences.x_BTF.shape[1]

  def predict(x_BTF, step):
    y_BO = apply(x_BTF)[:, step]
    following = jnp.minimum(step + 1, num_steps - 1)
    next_BF = jnp.where(
      step + 1 < num_steps, jax.nn.sigmoid(y_BO), x_BTF[:, following]
    )
    return x_BTF.at[:, following].set(next_BF), y_BO

  _, y_TBO = jax.lax.scan(
    predict, sequences.x_BTF, jnp.arange(seen - 1, num_steps)
  )
  predicted = base.Sequences(
    sequences.x_BTF[:, seen - 1 :],
    sequences.target[:, seen - 1 :],
    base.only_last(
      len(sequences.x_BTF), num_steps - seen + 1, num_steps - seen + 1
    ),
  )
  return binary_cross_entropy(y_TBO.swapaxes(0, 1), predicted)


def simulate(key, num_balls: int, radius: float, num_frames: int) -> jax.Array:
  """Simulates the centres of balls in the unit square, [T, N, 2].

  Balls start at different points of a grid, so that no two overlap, and move in
  random directions.
  """
  place_key, angle_key = jax.random.split(key)
  side = 3  # A 3x3 grid holds 9 balls; its spacing exceeds two radii.
  cell_N = jax.random.permutation(place_key, side * side)[:num_balls]
  cell_N2 = jnp.stack([cell_N // side, cell_N % side], axis=1)
  place_N2 = (cell_N2 + 0.5) / side
  angle_N = jax.random.uniform(angle_key, (num_balls,), maxval=2 * jnp.pi)
  speed_N2 = _SPEED * jnp.stack([jnp.cos(angle_N), jnp.sin(angle_N)], axis=1)

  def frame(state, _):
    after, _ = jax.lax.scan(
      lambda state, _: (move(*state, radius), None), state, None, _SUBSTEPS
    )
    return after, state[0]

  _, place_TN2 = jax.lax.scan(frame, (place_N2, speed_N2), None, num_frames)
  return place_TN2


def move(place_N2, speed_N2, radius: float):
  """Moves balls for one simulation step, then applies collisions."""
  place_N2 = place_N2 + speed_N2 / _SUBSTEPS
  speed_N2 = jnp.where(place_N2 < radius, jnp.abs(speed_N2), speed_N2)
  speed_N2 = jnp.where(place_N2 > 1 - radius, -jnp.abs(speed_N2), speed_N2)

  # Two balls of equal mass that touch and approach exchange the components of
  # their velocities along the line between their centres.
  apart_NN2 = place_N2[:, None] - place_N2[None, :]
  distance_NN = jnp.sqrt((apart_NN2**2).sum(axis=-1) + 1e-12)
  normal_NN2 = apart_NN2 / distance_NN[..., None]
  faster_NN2 = speed_N2[:, None] - speed_N2[None, :]
  approach_NN = (faster_NN2 * normal_NN2).sum(axis=-1)
  meet_NN = (distance_NN < 2 * radius) & (approach_NN < 0)
  meet_NN &= ~jnp.eye(len(place_N2), dtype=bool)
  change_NN2 = jnp.where(
    meet_NN[..., None], approach_NN[..., None] * normal_NN2, 0.0
  )
  return place_N2, speed_N2 - change_NN2.sum(axis=1)


def render(place_TN2, there_N, pixels: int, radius: float) -> jax.Array:
  """Draws frames, 1 where a pixel's centre lies in a ball, [T, H, W]."""
  centre = (jnp.arange(pixels) + 0.5) / pixels
  down_TNH = (place_TN2[..., 0, None] - centre[None, None]) ** 2
  right_TNW = (place_TN2[..., 1, None] - centre[None, None]) ** 2
  inside_TNHW = down_TNH[..., :, None] + right_TNW[..., None, :] < radius**2
  inside_TNHW &= there_N[None, :, None, None]
  return inside_TNHW.any(axis=1).astype(jnp.float32)
