"""An expert that says an image in few numbers, and draws it again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from icm_jax import types
from icm_jax.models import convolution, network
from icm_jax.models.residual import double, halve

_LEVELS = 3  # How often sides are halved on the way to the latent numbers.


class VAEExpert(nn.Module):
  """A convolutional variational autoencoder (Kingma and Welling 2014).

  In training the latent numbers are drawn, `mean + exp(log_variance / 2) *
  noise`; otherwise they are the mean. The noise comes from a seed and a counter
  among the network's statistics, so that the same call gives the same output,
  and the next update other noise.

  Attributes:
    features: channels at full resolution; twice as many below.
    norm: "batch", "group" or "none".
    copies: must be False; such an expert has to learn to copy.
    latent: how many latent numbers.
    beta: weight of the Kullback-Leibler divergence in `penalty`, per pixel, as
      errors are means over pixels.
  """

  features: int = 16
  norm: str = "none"
  copies: bool = False
  latent: int = 64
  beta: float = 1e-4

  def setup(self):
    if self.copies:
      raise types.InputError(
        "A VAE cannot copy by construction; train it to copy, by identity "
        "steps with by_construction=False."
      )
    features = (self.features, *(2 * self.features,) * _LEVELS)
    stack = lambda *layers: network.ConvStack(layers, self.norm)
    self.down = [stack(convolution.Layer(f)) for f in features]
    self.up = [stack(convolution.Layer(f)) for f in features]
    self.moments = nn.Dense(2 * self.latent)

  @nn.compact
  def __call__(self, x_BHWC, *, train: bool):
    unit = 2**_LEVELS
    batch, height, width, channels = x_BHWC.shape
    if height % unit or width % unit:
      raise types.InputError(
        f"A VAE's sides must be multiples of {unit}; got {height}x{width}."
      )
    mean_BF, log_variance_BF = self.encode(x_BHWC, train=train)
    latent_BF = mean_BF
    seed = self.variable("noise", "seed", self._draw_seed)
    count = self.variable("noise", "count", jnp.zeros, (), jnp.uint32)
    if train:
      key = jax.random.fold_in(jax.random.key(seed.value), count.value)
      latent_BF = draw(key, mean_BF, log_variance_BF)
      count.value += 1
    shape = (batch, height // unit, width // unit, 2 * self.features)
    small = shape[1] * shape[2] * shape[3]
    h_BHWF = nn.elu(nn.Dense(small, name="draw")(latent_BF)).reshape(shape)
    for level in range(_LEVELS, 0, -1):
      h_BHWF = double(self.up[level](h_BHWF, train=train))
    h_BHWF = self.up[0](h_BHWF, train=train)
    last = (convolution.Layer(channels, elu=False),)
    return nn.sigmoid(convolution.Stack(last, name="last")(h_BHWF))

  def encode(self, x_BHWC, *, train: bool):
    """Mean and logarithm of the variance of the latent numbers."""
    h_BHWF = 2.0 * x_BHWC - 1.0
    for level, stack in enumerate(self.down):
      h_BHWF = stack(halve(h_BHWF) if level else h_BHWF, train=train)
    moments_BF = self.moments(h_BHWF.reshape(h_BHWF.shape[0], -1))
    return jnp.split(moments_BF, 2, axis=-1)

  def penalty(self, x_BHWC):
    """beta times the divergence of the latent numbers, [B]."""
    mean_BF, log_variance_BF = self.encode(x_BHWC, train=False)
    return self.beta * divergence(mean_BF, log_variance_BF)

  def _draw_seed(self):
    return jax.random.bits(self.make_rng("params"))


def draw(
  key: jax.Array, mean_BF: jax.Array, log_variance_BF: jax.Array
) -> jax.Array:
  """Normal numbers of these moments, which a gradient can pass."""
  noise_BF = jax.random.normal(key, mean_BF.shape)
  return mean_BF + jnp.exp(0.5 * log_variance_BF) * noise_BF


def divergence(mean_BF: jax.Array, log_variance_BF: jax.Array) -> jax.Array:
  """Kullback-Leibler divergence from a standard normal distribution, [B]."""
  return 0.5 * jnp.sum(
    mean_BF**2 + jnp.exp(log_variance_BF) - log_variance_BF - 1.0, axis=1
  )
