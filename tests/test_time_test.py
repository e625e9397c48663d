"""Classifiers that adapt to test images, and AugMix."""

import jax
import numpy as np
import pytest

from icm_jax import models
from icm_jax.evaluation import augmix, classifier, test_time


@pytest.fixture(scope="module")
def normalised():
  """A small trained classifier with batch normalisation, and its images."""
  network = models.from_linen(
    models.ConvClassifier(2, features=4, hidden=8, norm="batch"), (8, 8, 1)
  )
  rng = np.random.default_rng(0)
  label_N = np.arange(64, dtype=np.int32) % 2
  image_NHWC = rng.integers(0, 90, (64, 8, 8, 1), np.uint8)
  image_NHWC[label_N == 1, :, :4] += 120
  params, stats = classifier.train_classifier(
    network,
    image_NHWC,
    label_N,
    np.arange(64),
    seed=0,
    steps=30,
    batch_size=16,
    learning_rate=1e-2,
  )
  return network, params, stats, image_NHWC.astype(np.float32) / 255, label_N


def error(logit_NK, label_N):
  return np.mean(logit_NK.argmax(-1) != label_N)


def entropy(logit_NK):
  log_p_NK = np.asarray(jax.nn.log_softmax(logit_NK))
  return -(np.exp(log_p_NK) * log_p_NK).sum(-1).mean()


def test_training_with_batch_normalisation_keeps_running_statistics(normalised):
  network, params, stats, x_NHWC, label_N = normalised
  fresh = network.init(jax.random.key(0))[1]
  for new, old in zip(
    jax.tree.leaves(stats), jax.tree.leaves(fresh), strict=True
  ):
    assert np.abs(new - old).max() > 1e-3
  logits = test_time.frozen(network, params, stats, batch_size=40)(x_NHWC)
  assert error(logits, label_N) == 0
  # Each image counts for itself.
  np.testing.assert_allclose(
    test_time.frozen(network, params, stats, batch_size=7)(x_NHWC),
    logits,
    atol=1e-5,
  )


def test_statistics_of_a_batch_undo_a_change_of_brightness(normalised):
  network, params, stats, x_NHWC, label_N = normalised
  bright_NHWC = 0.3 * x_NHWC + 0.7
  parts = (network, params, stats)
  frozen = test_time.frozen(*parts, batch_size=32)(bright_NHWC)
  adapted = test_time.with_batch_statistics(*parts, batch_size=32)(bright_NHWC)
  assert error(frozen, label_N) > 0.3
  assert error(adapted, label_N) == 0


def test_tent_starts_afresh_and_becomes_more_certain(normalised):
  network, params, stats, x_NHWC, _ = normalised
  parts = (network, params, stats)
  classify = test_time.tent(*parts, batch_size=32, learning_rate=0.05)
  twice_NHWC = np.concatenate([x_NHWC[:32]] * 4)
  logits = classify(twice_NHWC)
  # A batch is answered before it changes anything.
  plain = test_time.with_batch_statistics(*parts, batch_size=32)
  np.testing.assert_allclose(logits[:32], plain(x_NHWC[:32]), atol=1e-5)
  assert entropy(logits[96:]) < entropy(logits[:32])
  np.testing.assert_array_equal(classify(twice_NHWC), logits)


def test_augmix_shows_an_image_and_two_mixtures():
  rng = np.random.default_rng(0)
  image_BHWC = rng.integers(0, 256, (5, 28, 28, 1), np.uint8)
  shown = augmix.views(seed=3)(image_BHWC, 7)
  assert shown.shape == (15, 28, 28, 1)
  assert shown.dtype == np.uint8
  np.testing.assert_array_equal(shown[:5], image_BHWC)
  assert np.abs(shown[5:10].astype(int) - shown[10:]).max() > 0
  np.testing.assert_array_equal(augmix.views(seed=3)(image_BHWC, 7), shown)
  assert (augmix.views(seed=3)(image_BHWC, 8) != shown).any()


def test_augmix_distorts_a_picture_by_every_operation():
  rng = np.random.default_rng(0)
  image_HW = np.zeros((28, 28), np.uint8)
  image_HW[6:22, 12:16] = 200
  mixed = np.stack([augmix.mix(rng, image_HW) for _ in range(60)])
  change = np.abs(mixed.astype(int) - image_HW).mean(axis=(1, 2))
  assert (change > 0).mean() > 0.7
  assert change.max() < 60


def test_the_loss_of_augmix_is_cross_entropy_plus_a_divergence():
  rng = np.random.default_rng(1)
  logit_VBK, label_B = rng.normal(size=(3, 4, 5)), np.arange(4)
  p_VBK = np.exp(logit_VBK) / np.exp(logit_VBK).sum(-1, keepdims=True)
  mean_BK = p_VBK.mean(axis=0)
  divergence = (p_VBK * np.log(p_VBK / mean_BK)).sum(-1).mean()
  entropy_B = -np.log(p_VBK[0, np.arange(4), label_B])
  np.testing.assert_allclose(
    augmix.loss(logit_VBK.reshape(12, 5).astype(np.float32), label_B),
    entropy_B.mean() + 12 * divergence,
    rtol=1e-5,
  )
