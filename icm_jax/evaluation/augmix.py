"""AugMix: classifiers that resist distortions, by mixtures of distortions.

Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness
and Uncertainty", ICLR 2020. It is a baseline of `experiments.robustness`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

# Views of `views`: the image itself and two mixtures.
NUM_VIEWS = 3
_CHAINS = 3  # Chains in a mixture; the paper's width.
_MOST_OPERATIONS = 3  # Operations of the longest chain.
_SEVERITY = 3.0  # The paper's, for CIFAR.
_JSD_WEIGHT = 12.0

# (generator, picture, level in [0, 1]) -> picture
_Operation = Callable[[np.random.Generator, Image.Image, float], Image.Image]


def _sign(generator: np.random.Generator) -> int:
  return 1 if generator.random() < 0.5 else -1


def _affine(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
  return picture.transform(
    picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
  )


def _rotate(generator, picture, level):
  degrees = _sign(generator) * 30.0 * level
  return picture.rotate(degrees, Image.Resampling.BILINEAR)


def _shear_x(generator, picture, level):
  return _affine(picture, (1, _sign(generator) * 0.3 * level, 0, 0, 1, 0))


def _shear_y(generator, picture, level):
  return _affine(picture, (1, 0, 0, _sign(generator) * 0.3 * level, 1, 0))


def _translate_x(generator, picture, level):
  pixels = _sign(generator) * int(level * picture.width / 3)
  return _affine(picture, (1, 0, pixels, 0, 1, 0))


def _translate_y(generator, picture, level):
  pixels = _sign(generator) * int(level * picture.height / 3)
  return _affine(picture, (1, 0, 0, 0, 1, pixels))


def _autocontrast(generator, picture, level):
  del generator, level
  return ImageOps.autocontrast(picture)


def _equalize(generator, picture, level):
  del generator, level
  return ImageOps.equalize(picture)


def _posterize(generator, picture, level):
  del generator
  return ImageOps.posterize(picture, 4 - int(level * 4))


def _solarize(generator, picture, level):
  del generator
  return ImageOps.solarize(picture, 256 - int(level * 256))


_OPERATIONS: tuple[_Operation, ...] = (
  _autocontrast,
  _equalize,
  _posterize,
  _rotate,
  _solarize,
  _shear_x,
  _shear_y,
  _translate_x,
  _translate_y,
)


def mix(generator: np.random.Generator, image_HW: np.ndarray) -> np.ndarray:
  """Mixes an image with three chains of distortions of it (Algorithm 1).

  Args:
    generator: is advanced.
    image_HW: uint8, grey.

  Returns:
    uint8, same shape.
  """
  weight_C = generator.dirichlet(np.ones(_CHAINS))
  share = generator.beta(1.0, 1.0)
  mixed_HW = np.zeros(image_HW.shape)
  for weight in weight_C:
    picture = Image.fromarray(image_HW)
    for _ in range(generator.integers(1, _MOST_OPERATIONS + 1)):
      operation = _OPERATIONS[generator.integers(len(_OPERATIONS))]
      # Levels go to 10.
      level = generator.uniform(0.1, _SEVERITY) / 10
      picture = operation(generator, picture, level)
    mixed_HW += weight * np.asarray(picture)
  mixed_HW = (1.0 - share) * image_HW + share * mixed_HW
  return np.round(mixed_HW).astype(np.uint8)


def views(seed: int) -> Callable[[np.ndarray, int], np.ndarray]:
  """Returns the argument `views` of `train_classifier` for AugMix.

  Args:
    seed: seed of the distortions.
  """

  def show(image_BHWC: np.ndarray, step: int) -> np.ndarray:
    generator = np.random.default_rng([seed, step])
    mixed = [
      mix(generator, image_BHWC[b, :, :, 0])
      for _ in range(NUM_VIEWS - 1)
      for b in range(len(image_BHWC))
    ]
    return np.concatenate([image_BHWC, np.stack(mixed)[..., None]])

  return show


def loss(logit_BK: jax.Array, label_B: jax.Array) -> jax.Array:
  """Cross entropy of the images, and how far the views' predictions differ.

  Args:
    logit_BK: [3 * B, K], logits of all views, see `views`.
    label_B: int32 in [0, K), classes of the B images.

  Returns:
    The mean over images of the cross entropy plus 12 times the Jensen-Shannon
    divergence of the three predictions, in nats.
  """
  log_p_VBK = jax.nn.log_softmax(
    logit_BK.reshape(NUM_VIEWS, -1, logit_BK.shape[-1])
  )
  p_VBK = jnp.exp(log_p_VBK)
  log_mean_BK = jnp.log(jnp.clip(p_VBK.mean(axis=0), 1e-7))
  divergence = (p_VBK * (log_p_VBK - log_mean_BK[None])).sum(axis=-1).mean()
  picked_B = jnp.take_along_axis(log_p_VBK[0], label_B[:, None], axis=-1)
  return _JSD_WEIGHT * divergence - picked_B.mean()
