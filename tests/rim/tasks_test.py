"""Sequence tasks: what they ask, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import types
from icm_jax.rim import tasks
from icm_jax.rim.tasks import balls, digits

KEY = jax.random.key(0)


def test_copying_asks_for_the_digits_after_the_pause():
  task = tasks.make_copying(digits=3, blanks=(2, 4))
  s = jax.device_get(task.draw(KEY, "4 blanks", 5, "test"))
  symbol_BT = s.x_BTF.argmax(axis=-1)
  assert symbol_BT.shape == (5, 3 + 4 + 3)
  shown_T = np.array([1] * 3 + [0] * 4 + [1] * 3)  # Blanks are zeros.
  np.testing.assert_array_equal(s.x_BTF.sum(axis=-1), [shown_T] * 5)
  assert (symbol_BT[:, :3] < 8).all()
  assert (symbol_BT[:, 7:] == 8).all()
  np.testing.assert_array_equal(s.target[:, 7:], symbol_BT[:, :3])
  np.testing.assert_allclose(s.weight_BT[0], [0] * 7 + [1 / 3] * 3)
  right = lambda x: 50.0 * jax.nn.one_hot(s.target, task.num_outputs)
  np.testing.assert_allclose(task.measure(right, s), 0, atol=1e-6)
  unsure = lambda x: jnp.zeros((*symbol_BT.shape, 8))
  np.testing.assert_allclose(task.measure(unsure, s), np.log(8), atol=1e-5)


def test_adding_marks_a_number_in_each_half():
  task = tasks.make_adding(lengths=(6, 9))
  s = jax.device_get(task.draw(KEY, "length 9", 7, "test"))
  value_BT, marked_BT = s.x_BTF[..., 0], s.x_BTF[..., 1]
  assert (marked_BT[:, :4].sum(axis=1) == 1).all()
  assert (marked_BT[:, 4:].sum(axis=1) == 1).all()
  sum_B = (value_BT * marked_BT).sum(axis=1)
  np.testing.assert_allclose(s.target[:, -1, 0], sum_B, rtol=1e-6)
  guess = lambda x: jnp.broadcast_to(sum_B[:, None, None] + 0.5, (7, 9, 1))
  np.testing.assert_allclose(task.measure(guess, s), 0.25, rtol=1e-5)


def test_digits_are_scaled_to_the_nearest_pixel_and_binarised():
  image_NHW = np.arange(16, dtype=np.uint8).reshape(1, 4, 4) * 16
  np.testing.assert_array_equal(digits.scale(image_NHW, 4), image_NHW)
  doubled = image_NHW.repeat(2, axis=1).repeat(2, axis=2)
  np.testing.assert_array_equal(digits.scale(image_NHW, 8), doubled)
  np.testing.assert_array_equal(
    digits.scale(image_NHW, 2), image_NHW[:, 1::2, 1::2]
  )
  assert digits.binarise(image_NHW).tolist() == [[0] * 8 + [1] * 8]


def test_digits_of_the_test_part_come_once_each(drawn_problem):
  problem = drawn_problem._replace(skipped=[("a.png", "truncated")])
  task = tasks.make_digits(problem, sizes=(8, 16))
  assert task.skipped == problem.skipped
  assert task.test_examples == 40
  s = jax.device_get(task.draw(KEY, "16x16", 40, "test"))
  assert s.x_BTF.shape == (40, 256, 1)
  assert set(np.unique(s.x_BTF)) == {0, 1}
  labels = drawn_problem.images.label_N[drawn_problem.test_ids]
  assert sorted(s.target[:, -1]) == sorted(labels)
  right = lambda x: jax.nn.one_hot(s.target, task.num_outputs)
  assert (np.asarray(task.measure(right, s)) == 1).all()


def test_validation_digits_are_held_out_of_training(drawn_problem):
  # Every image shows its own number, in binary.
  number_N = np.arange(len(drawn_problem.images.image_NHWC))
  bit_NHW = (number_N[:, None] >> np.arange(16) & 1).reshape(-1, 4, 4)
  images = drawn_problem.images._replace(
    image_NHWC=(255 * bit_NHW[..., None]).astype(np.uint8)
  )
  task = tasks.make_digits(
    drawn_problem._replace(images=images), sizes=(4,), measured="validation"
  )

  def shown(part, count):
    s = task.draw(KEY, "4x4", count, part)
    return set(np.asarray(s.x_BTF[..., 0]).astype(int) @ 2 ** np.arange(16))

  held_out, trained = shown("test", task.test_examples), shown("train", 5_000)
  train_ids = drawn_problem.train_ids
  assert len(held_out) == task.test_examples == -(-len(train_ids) // 10)
  assert not held_out & trained
  assert held_out | trained == set(train_ids)


def test_balls_keep_energy_and_stay_inside():
  radius = 0.1
  place_TN2 = np.asarray(balls.simulate(KEY, 4, radius, 200))
  assert (place_TN2 > radius - 0.02).all()
  assert (place_TN2 < 1 - radius + 0.02).all()
  apart_TNN = np.linalg.norm(
    place_TN2[:, :, None] - place_TN2[:, None], axis=-1
  ) + np.eye(4)
  assert apart_TNN.min() > 2 * radius - 0.04
  # Speeds of equal size at first; exchanged in collisions, not lost.
  speed_N2 = np.array([[0.03, 0.04], [-0.05, 0.0], [0.0, 0.05]])
  place_N2 = np.array([[0.4, 0.5], [0.55, 0.5], [0.2, 0.2]])
  _, after_N2 = balls.move(place_N2, speed_N2, radius)
  np.testing.assert_allclose(
    after_N2.sum(axis=0), speed_N2.sum(axis=0), atol=1e-7
  )
  np.testing.assert_allclose(
    (after_N2**2).sum(), (speed_N2**2).sum(), rtol=1e-5
  )
  np.testing.assert_allclose(after_N2[2], speed_N2[2], rtol=1e-6)
  assert after_N2[0, 0] < 0 < after_N2[1, 0]  # They met nearly head on.


def test_frames_of_balls_follow_each_other():
  task = tasks.make_balls(pixels=20, radius=0.1, seen=2, unseen=3)
  for variant in task.variants:
    s = jax.device_get(task.draw(KEY, variant, 3, "test"))
    assert s.x_BTF.shape == (3, 4, 400)
    np.testing.assert_array_equal(s.x_BTF[:, 1:], s.target[:, :-1])
    frame_BTHW = s.x_BTF.reshape(3, 4, 20, 20)
    if variant == "curtain":
      assert not frame_BTHW[..., 8:12].any()
    else:
      least, most = balls._COUNTS[variant]
      area_BT = frame_BTHW.mean(axis=(2, 3)) / (np.pi * 0.1**2)
      assert (area_BT[:, 0] > 0.8 * least).all()
      assert (area_BT < 1.2 * most).all()


def test_predicted_frames_are_made_from_predictions():
  task = tasks.make_balls(pixels=4, radius=0.1, seen=2, unseen=3)
  s = task.draw(KEY, "4 balls", 2, "test")
  # The model predicts what it reads, so it repeats the last frame seen.
  same = lambda x: 60.0 * (2 * x - 1)
  predicted = np.asarray(balls.rollout_cross_entropy(same, s, 2))
  seen_BF, later_BTF = np.asarray(s.x_BTF[:, 1]), np.asarray(s.target[:, 1:])
  wrong_B = (seen_BF[:, None] != later_BTF).mean(axis=(1, 2))
  np.testing.assert_allclose(predicted, 60 * wrong_B, atol=1e-4)
  # Later frames themselves are never read.
  hidden = s._replace(x_BTF=s.x_BTF.at[:, 2:].set(7.0))
  np.testing.assert_array_equal(
    balls.rollout_cross_entropy(same, hidden, 2), predicted
  )


@pytest.mark.parametrize(
  ("make", "fields", "message"),
  [
    (tasks.make_copying, dict(digits=0, blanks=(1,)), "at least 1; got 0"),
    (tasks.make_copying, dict(digits=1, blanks=()), "got none"),
    (tasks.make_adding, dict(lengths=(1,)), "at least 2; got 1"),
    (tasks.make_adding, dict(lengths=(5, 5)), "different lengths"),
    (
      tasks.make_balls,
      dict(pixels=4, radius=0.3, seen=1, unseen=1),
      "got 0.3",
    ),
  ],
)
def test_bad_fields_of_tasks_are_refused(make, fields, message):
  with pytest.raises(types.InputError, match=message):
    make(**fields)
