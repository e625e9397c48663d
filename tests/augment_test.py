"""Random variations of images stay in range, and images vary independently."""

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax.data import augment, problem


def varied(x_BHWC, **augmentation):
  return augment.augment(
    jax.random.key(0), x_BHWC, augment.Augmentation(**augmentation)
  )


def test_images_stay_without_augmentation_and_can_be_mirrored():
  x_BHWC = jax.random.uniform(jax.random.key(1), (3, 6, 8, 1))
  np.testing.assert_allclose(varied(x_BHWC), x_BHWC, atol=1e-6)
  np.testing.assert_allclose(
    varied(x_BHWC, flip=1.0), x_BHWC[:, :, ::-1], atol=1e-6
  )


def test_shifts_and_zooms_of_a_ramp_by_hand():
  ramp_W = jnp.arange(16, dtype=jnp.float32) / 16
  x_BHWC = jnp.broadcast_to(ramp_W[None, None, :, None], (50, 16, 16, 1))
  moved_BW = varied(x_BHWC, shift=0.1)[:, 3, :, 0] - ramp_W[None]
  # Where no edge is near, a shift adds the same everywhere.
  inner_BW = moved_BW[:, 2:-2]
  assert np.ptp(inner_BW, axis=1).max() < 1e-5
  assert 0.08 < np.abs(inner_BW).max() <= 0.1 + 1e-5
  slope_BW = np.diff(varied(x_BHWC, zoom=0.2)[:, 3, :, 0])[:, 3:-3] * 16
  assert np.ptp(slope_BW, axis=1).max() < 1e-4
  assert 0.8 <= slope_BW.min() < 0.85
  assert 1.15 < slope_BW.max() <= 1.2 + 1e-4


def test_light_of_grey_images_stays_in_bounds():
  grey_BHWC = jnp.full((50, 2, 2, 1), 0.75)
  level_B = varied(grey_BHWC, brightness=0.1)[:, 0, 0, 0]
  assert 0.65 <= level_B.min() < 0.67
  assert 0.83 < level_B.max() <= 0.85
  level_B = varied(grey_BHWC, contrast=0.2)[:, 0, 0, 0]
  assert 0.7 <= level_B.min() < 0.71
  assert 0.79 < level_B.max() <= 0.8


def test_both_sides_of_a_batch_are_varied_independently():
  image_BHWC = np.full((4, 2, 2, 1), 128, np.uint8)
  batch = problem.make_batch(
    jax.random.key(0),
    jnp.int32(0),
    problem.Raw(image_BHWC, image_BHWC),
    (),
    augment.Augmentation(brightness=0.2),
  )
  levels = np.concatenate([side[:, 0, 0, 0] for side in batch])
  assert len(np.unique(levels)) == 8
