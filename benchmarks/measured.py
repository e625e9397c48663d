"""What benchmarks measure: networks, states, batches, and their work."""

import functools

import jax
import optax

from icm_jax import competition, models


def make_setup(
  image, *, dtype: str = "float32", form: str = "auto"
) -> competition.Setup:
  """Makes the paper's networks without normalisation, and its optimizers.

  The discriminator learns from all losers, and there are no remedies.

  Args:
    image: shape of an image.
    dtype: dtype of the computation.
    form: mode of the map over experts.
  """
  return competition.Setup(
    expert=models.from_linen(
      models.ConvExpert(norm="none"), image, compute_dtype=dtype
    ),
    discriminator=models.from_linen(
      models.ConvDiscriminator(), image, compute_dtype=dtype
    ),
    expert_tx=optax.adam(1e-3),
    discriminator_tx=optax.adam(1e-3),
    expert_map=form,
  )


def make_state(setup, experts) -> competition.TrainState:
  init = functools.partial(
    competition.init_state, setup=setup, num_experts=experts
  )
  return jax.jit(init)(jax.random.key(0))


def make_batch(batch, image) -> competition.Batch:
  keys = jax.random.split(jax.random.key(1))
  return competition.Batch(
    *(jax.random.uniform(key, (batch, *image)) for key in keys)
  )


def compile_step(step, state, batch):
  return jax.jit(step, donate_argnums=0).lower(state, batch).compile()


def passes(experts, batch, image) -> list[tuple[float, float]]:
  """Counts the work of an update, convolution by convolution.

  An update has the forward pass of all experts; the discriminator's forward
  pass and both of its gradients, on all outputs and on canonical images; and
  the winners' forward pass and both of its gradients.

  Returns:
    Floating point operations, and the numbers that are read and written at
    least, without parameters, of each pass of each layer.
  """
  height, width, channels = image
  pixels = height * width
  work = []

  def add(layers, images, count):
    for size, taps, before, after in layers:
      flops = 2 * taps * size * before * after
      work.extend([(images * flops, images * size * (before + after))] * count)

  expert = [
    (pixels, 9, channels, 32),
    *[(pixels, 9, 32, 32)] * 3,
    (pixels, 9, 32, channels),
  ]
  discriminator = [
    (pixels, 9, channels, 16),
    *[(pixels, 9, 16, 16)] * 2,
    (pixels / 4, 9, 16, 32),
    (pixels / 4, 9, 32, 32),
    (pixels / 16, 9, 32, 64),
    (pixels / 16, 9, 64, 64),
    (1, 1, pixels // 64 * 64, 1024),
  ]
  add(expert, batch * experts, 1)
  add(discriminator, batch * (experts + 1), 3)
  add(expert, batch, 3)
  return work


def flops(experts, batch, image) -> float:
  """Counts the floating point operations of convolutions and products."""
  return sum(count for count, _ in passes(experts, batch, image))
