"""The fifteen corruptions of MNIST-C (Mu & Gilmer, 2019, arXiv:1906.02337).

A mechanism is a pure function `(key, x_HWC) -> x_HWC` on float32 images in
[0, 1] with any number of channels. It keeps the shape, and consumes the key if
it uses it at all. Defaults are those of the benchmark, whose images have 28x28
grey pixels of whole grey levels; results here are not rounded. Lengths are in
pixels, so that images of another size are distorted differently.

Each function is cheap in a batch, since `mixture.apply_each` computes every
mechanism for every image: what depends on the size alone is a constant, and
loops over pixels run along diagonals.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax.mechanisms import edges, lines, plasma, swaps, warp

# Mechanisms by the benchmark's names. Its motion blur leaves a trail on one
# side; `motion_blur` is the name of a blur of faces.
BENCHMARK = {
  "shot_noise": "shot_noise",
  "impulse_noise": "impulse_noise",
  "glass_blur": "glass_blur",
  "motion_blur": "motion_trail",
  "shear": "shear",
  "scale": "scale",
  "rotate": "rotate",
  "brightness": "brightness",
  "translate": "translate",
  "stripe": "stripe",
  "fog": "fog",
  "spatter": "spatter",
  "dotted_line": "dotted_line",
  "zigzag": "zigzag",
  "canny_edges": "canny_edges",
}


def shot_noise(
  key: jax.Array, x_HWC: jax.Array, *, counts: int = 3
) -> jax.Array:
  """Noise of few photons: a Poisson number for each pixel (severity 5).

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    counts: mean number of photons of a white pixel; more of them are clipped.

  Returns:
    float32 in [0, 1], same shape.
  """
  mean_HWC = counts * x_HWC
  uniform_HWC = jax.random.uniform(key, x_HWC.shape)
  # Numbers above `counts` are clipped, so that the distribution function at few
  # numbers suffices; the usual sampler loops until all images have finished.
  probability_HWC = below_HWC = jnp.exp(-mean_HWC)
  photons_HWC = jnp.zeros_like(x_HWC)
  for number in range(1, counts + 1):
    photons_HWC += uniform_HWC >= below_HWC
    probability_HWC = probability_HWC * mean_HWC / number
    below_HWC = below_HWC + probability_HWC
  return photons_HWC / counts


def impulse_noise(
  key: jax.Array, x_HWC: jax.Array, *, amount: float = 0.17
) -> jax.Array:
  """Salt and pepper (severity 4).

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    amount: share of pixels that become black or, as often, white.

  Returns:
    float32 in [0, 1], same shape.
  """
  uniform_HWC = jax.random.uniform(key, x_HWC.shape)
  salted_HWC = jnp.where(uniform_HWC >= 1 - amount / 2, 1.0, x_HWC)
  return jnp.where(uniform_HWC < amount / 2, 0.0, salted_HWC)


def glass_blur(
  key: jax.Array, x_HWC: jax.Array, *, sigma: float = 0.7, rounds: int = 2
) -> jax.Array:
  """A view through frosted glass (severity 1).

  The benchmark blurs along columns only: its Gaussian takes the columns of a
  grey image for channels.

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    sigma: standard deviation of the blurs before and after pixels change
      places, in pixels; above 0.
    rounds: how often every pixel may change places with a neighbour.

  Returns:
    float32 in [0, 1], same shape.
  """
  height, width, _ = x_HWC.shape
  blur_HH = _gaussian(height, sigma)
  # The benchmark cuts off to whole grey levels here.
  y_HWC = jnp.floor(255 * _rows(blur_HH, x_HWC)) / 255
  for round_key in jax.random.split(key, rounds):
    choice_HW = jax.random.randint(round_key, (height, width), 0, 8)
    y_HWC = swaps.change_places(choice_HW, y_HWC)
  return jnp.clip(_rows(blur_HH, y_HWC), 0.0, 1.0)


def motion_trail(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  radius: int = 10,
  sigma: float = 3.0,
  degrees: float = 45.0,
) -> jax.Array:
  """Motion blur that fades towards one side (severity 1, `motion_blur`).

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    radius: half of the trail's length in pixels.
    sigma: standard deviation of the weights along the trail, which is one half
      of a Gaussian; above 0.
    degrees: largest angle between the trail and the rows; the angle is uniform.

  Returns:
    float32 in [0, 1], same shape. Pixels at the edge continue outside.
  """
  height, width, _ = x_HWC.shape
  angle = jax.random.uniform(key, minval=-degrees, maxval=degrees)
  right, down = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
  # Weights beyond four deviations change no grey level.
  taps = min(2 * radius + 1, int(np.ceil(4 * sigma)) + 1)
  weights = np.exp(-0.5 * (np.arange(taps) / sigma) ** 2)
  y_HWC = jnp.zeros_like(x_HWC)
  for distance, weight in enumerate(weights / weights.sum()):
    row = jnp.ceil(distance * down - 0.5).astype(int)
    column = jnp.ceil(distance * right - 0.5).astype(int)
    row_H = jnp.clip(np.arange(height) + row, 0, height - 1)
    column_W = jnp.clip(np.arange(width) + column, 0, width - 1)
    y_HWC += float(weight) * x_HWC[row_H[:, None], column_W[None]]
  return jnp.clip(y_HWC, 0.0, 1.0)


def shear(
  key: jax.Array, x_HWC: jax.Array, *, radians: float = 0.4
) -> jax.Array:
  """Slants the image to either side (severity 2).

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    radians: angle by which columns turn; they keep their length, so that the
      image becomes lower.

  Returns:
    float32 in [0, 1], same shape.
  """
  map_22 = np.array([[1, -np.sin(radians)], [0, np.cos(radians)]])
  return warp.warp(x_HWC, map_22, mirrored=jax.random.bernoulli(key))


def scale(
  key: jax.Array, x_HWC: jax.Array, *, factor: float = 0.7
) -> jax.Array:
  """Shrinks the image about its centre (severity 3).

  Args:
    key: not used: the scale is always the same.
    x_HWC: float32 in [0, 1].
    factor: factor of lengths, above 0.

  Returns:
    float32 in [0, 1], same shape.
  """
  del key
  return warp.warp(x_HWC, np.eye(2) / factor)


def rotate(
  key: jax.Array, x_HWC: jax.Array, *, radians: float = 0.4
) -> jax.Array:
  """Turns the image about its centre to either side (severity 2).

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    radians: angle of the turn.

  Returns:
    float32 in [0, 1], same shape.
  """
  cos, sin = np.cos(radians), np.sin(radians)
  map_22 = np.array([[cos, -sin], [sin, cos]])
  return warp.warp(x_HWC, map_22, mirrored=jax.random.bernoulli(key))


def brightness(
  key: jax.Array, x_HWC: jax.Array, *, light: float = 0.5
) -> jax.Array:
  """Adds light to every pixel and clips (severity 5).

  Args:
    key: not used: the light is always the same.
    x_HWC: float32 in [0, 1].
    light: amount of light, in units of the pixel range.

  Returns:
    float32 in [0, 1], same shape.
  """
  del key
  return jnp.clip(x_HWC + light, 0.0, 1.0)


def translate(
  key: jax.Array, x_HWC: jax.Array, *, pixels: int = 3
) -> jax.Array:
  """Shifts the image along one of the four diagonals (severity 3).

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    pixels: length of the shift along each axis.

  Returns:
    float32 in [0, 1], same shape; black enters the frame.
  """
  side = ((pixels, pixels), (pixels, pixels), (0, 0))
  top, left = 2 * pixels * jax.random.bernoulli(key, shape=(2,)).astype(int)
  return jax.lax.dynamic_slice(
    jnp.pad(x_HWC, side), (top, left, 0), x_HWC.shape
  )


def stripe(key: jax.Array, x_HWC: jax.Array) -> jax.Array:
  """Inverts the outer quarters of the columns.

  Args:
    key: not used: the stripes are always the same.
    x_HWC: float32 in [0, 1].

  Returns:
    float32 in [0, 1], same shape.
  """
  del key
  width = x_HWC.shape[1]
  column_W = np.arange(width)
  outer_W = np.minimum(column_W, width - 1 - column_W) < width // 4
  return jnp.where(outer_W[None, :, None], 1.0 - x_HWC, x_HWC)


def fog(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  density: float = 3.0,
  decay: float = 1.4,
) -> jax.Array:
  """Fog with the structure of a plasma fractal (severity 5).

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    density: factor of the fog, which is in [0, 1].
    decay: by how much the fog's amplitude falls, twice, with each halving of
      its scale; at least 1.

  Returns:
    float32 in [0, 1], same shape.
  """
  fog_HW = plasma.fractal(key, x_HWC.shape[:2], decay=decay)
  # The brightest pixel keeps its value where the fog is densest.
  most = x_HWC.max()
  y_HWC = (x_HWC + density * fog_HW[..., None]) * most / (most + density)
  return jnp.clip(y_HWC, 0.0, 1.0)


def spatter(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  mean: float = 0.65,
  stddev: float = 0.3,
  sigma: float = 1.0,
  threshold: float = 0.65,
  softness: float = 1.5,
  level: float = 63 / 255,
) -> jax.Array:
  """Mud in front of the image (severity 4).

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    mean: mean of the noise from which drops form.
    stddev: standard deviation of this noise.
    sigma: standard deviation of the noise's blur, in pixels; above 0.
    threshold: mud is where the blurred noise is greater.
    softness: standard deviation of the mud's blur, in pixels; above 0.
    level: value of the mud, in [0, 1].

  Returns:
    float32 in [0, 1], same shape; mud is the same in all channels.
  """
  height, width, _ = x_HWC.shape

  def blur(a_HW, sigma):
    rows_HH, columns_WW = (_gaussian(n, sigma) for n in (height, width))
    return rows_HH @ a_HW @ columns_WW.T

  noise_HW = mean + stddev * jax.random.normal(key, (height, width))
  mud_HW = (blur(noise_HW, sigma) > threshold).astype(x_HWC.dtype)
  mud_HW = blur(mud_HW, softness)
  # Only the inside of drops is left.
  mud_HWC = jnp.where(mud_HW < 0.8, 0.0, mud_HW)[..., None]
  return jnp.clip(x_HWC * (1 - mud_HWC) + level * mud_HWC, 0.0, 1.0)


def dotted_line(key: jax.Array, x_HWC: jax.Array) -> jax.Array:
  """A bright dotted line from the left edge to the right.

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].

  Returns:
    float32 in [0, 1], same shape.
  """
  height, width, _ = x_HWC.shape
  start, end = jax.random.randint(key, (2,), 0, height - 1).astype(float)
  column_W = np.arange(width, dtype=np.float32)
  line_W = start + (end - start) / (width - 1) * column_W
  row_H = np.arange(height, dtype=np.float32)
  line_HW = lines.brightness(row_H[:, None] - line_W[None], jnp)
  # The line ends before the last column.
  dotted_W = (column_W % 4 >= 2) & (column_W < width - 1)
  line_HW = jnp.where(dotted_W[None], line_HW, 0.0)
  return jnp.clip(x_HWC + line_HW[..., None], 0.0, 1.0)


def zigzag(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  period: float = 4.0,
  amplitude: float = 2.0,
) -> jax.Array:
  """A bright zigzag line across the image.

  Args:
    key: consumed.
    x_HWC: float32 in [0, 1].
    period: distance of an upper corner from the next lower one, in pixels.
    amplitude: distance of the corners from the middle of the zigzag, in pixels.

  Returns:
    float32 in [0, 1], same shape. The line rises or falls by at most 5 pixels.
  """
  height, width, _ = x_HWC.shape
  start_key, rise_key = jax.random.split(key)
  start = jax.random.randint(start_key, (), 0, height - 1)
  rise = jax.random.randint(rise_key, (), 0, len(lines.RISES))
  # There are few slopes: lines of all of them are constants, with the start of
  # the line in the middle row.
  line_RYW = np.stack(
    [
      lines.zigzag(height, width, rise=r, period=period, amplitude=amplitude)
      for r in lines.RISES
    ]
  )
  (line_HW,) = jax.lax.dynamic_slice(
    jnp.asarray(line_RYW, jnp.float32),
    (rise, height - 1 - start, 0),
    (1, height, width),
  )
  return jnp.clip(x_HWC + line_HW[..., None], 0.0, 1.0)


def canny_edges(
  key: jax.Array,
  x_HWC: jax.Array,
  *,
  sigma: float = 1.0,
  low: float = 0.1,
  high: float = 0.2,
) -> jax.Array:
  """Canny's edges, white on black.

  Args:
    key: not used: the edges are always the same.
    x_HWC: float32 in [0, 1].
    sigma: standard deviation of the blur before, in pixels; above 0.
    low: least gradient of an edge's pixels.
    high: least gradient of at least one pixel of an edge.

  Returns:
    float32, 0 or 1, same shape; all channels have the edges of their mean.
  """
  del key
  edge_HW = edges.canny(x_HWC.mean(axis=-1), sigma=sigma, low=low, high=high)
  return jnp.broadcast_to(edge_HW[..., None], x_HWC.shape).astype(x_HWC.dtype)


def _gaussian(length: int, sigma: float) -> np.ndarray:
  """A blur of an axis whose ends continue outside, as a matrix [L, L]."""
  reach = int(4 * sigma + 0.5)
  offset = np.arange(-reach, reach + 1)
  weights = np.exp(-0.5 * (offset / sigma) ** 2)
  blur_LL = np.zeros((length, length))
  for row in range(length):
    column = np.clip(row + offset, 0, length - 1)
    np.add.at(blur_LL[row], column, weights / weights.sum())
  return blur_LL.astype(np.float32)


def _rows(blur_HH, x_HWC):
  return jnp.einsum("ih,hwc->iwc", blur_HH, x_HWC)
