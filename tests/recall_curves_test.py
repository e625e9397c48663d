"""Faces with what they wear, as a detector finds them before and after."""

import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import types
from icm_jax.evaluation import detection, recall_curves


def faces(*rows):
  """Faces of an image: left, top, right, bottom and score of each."""
  table = np.array(rows, np.float32).reshape(-1, 5)
  return detection.Faces(table[:, :4], table[:, 4])


def test_faces_lie_where_most_certain_ones_do():
  found = [
    faces((0, 0, 4, 4, 0.9), (9, 9, 12, 12, 0.6)),
    faces((1, 1, 5, 5, 0.7)),
    faces((1, 0, 5, 4, 0.5)),
    faces((8, 8, 9, 9, 0.4)),
    faces(),
  ]
  np.testing.assert_array_equal(recall_curves.place(found), [1, 0, 5, 4])
  assert recall_curves.place(found[3:]) is None


def test_only_boxes_in_the_right_place_count():
  found = recall_curves.find(
    [
      faces((20, 20, 24, 24, 0.9), (0, 0, 4, 4, 0.6), (0, 0, 4, 3, 0.3)),
      faces((0, 2, 4, 6, 0.8)),  # A third of both boxes is common.
      faces(),
    ],
    np.array([0, 0, 4, 4]),
  )
  np.testing.assert_allclose(found.score_N, [0.6, 0, 0])
  assert recall_curves.SCORES == (0.2, 0.35, 0.5, 0.65, 0.8)
  np.testing.assert_array_equal(
    found.elsewhere_NS, [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]
  )


def test_the_interval_is_that_of_people():
  before_N, person_N = np.zeros(48, bool), np.arange(48) // 4
  interval = lambda after_N, person_N: recall_curves.gain_interval(
    before_N, after_N, person_N, seed=0
  )
  one_of_four_N = np.arange(48) % 4 == 0
  low, high = interval(one_of_four_N, np.arange(48))
  assert 0.1 < low < 0.25 < high < 0.4
  # Twelve people of four images each who gain alike have no spread.
  assert interval(one_of_four_N, person_N) == (0.25, 0.25)
  # If all images of a person gain or none, there are fewer chances.
  wide = interval(person_N % 4 == 0, person_N)
  assert wide[1] - wide[0] > 1.5 * (high - low)


def detect_squares(x_NHWC):
  found = []
  for image_HW in x_NHWC[..., 0]:
    y, x = np.nonzero(image_HW > 0.5)
    if len(x):
      box = (x.min(), y.min(), x.max() + 1, y.max() + 1, 0.6)
      found.append(faces(box))
    else:
      found.append(faces())
  return found


def test_a_group_is_found_again_after_experts(
  rows_problem, make_setup, make_state
):
  """Squares are faces; the winner moves them to the canonical place."""
  _, problem = rows_problem
  is_canonical_N = problem.group_N[problem.test_ids] < 0
  canonical_ids = problem.test_ids[is_canonical_N]
  left, top, right, bottom = recall_curves.place(
    detect_squares(problem.images.image_NHWC[canonical_ids] / 255)
  ).astype(int)
  square_HW1 = np.zeros((32, 32, 1), np.float32)
  square_HW1[top:bottom, left:right] = 1.0

  def apply(params, stats, x_BHWC, *, train):
    del params, train
    return jnp.broadcast_to(square_HW1, x_BHWC.shape), stats

  setup = make_setup((32, 32, 1))._replace(
    expert=types.Network(lambda key: ({}, {}), apply),
    discriminator=types.Network(
      lambda key: ({}, {}),
      lambda params, stats, x, *, train: (x.mean(axis=(1, 2, 3)), stats),
    ),
  )
  state = make_state(make_setup()).replace(
    experts_E={"none": jnp.zeros(3)}, expert_stats_E={}, discriminator={}
  )
  evaluate = lambda detect: recall_curves.evaluate(
    state,
    problem,
    np.arange(len(problem.images.image_NHWC)),
    {"squares": detect},
    sizes=(32, 16),
    setup=setup,
    batch_size=5,
    seed=0,
  )
  measured = evaluate(detect_squares)
  for by_size in measured["by_detector"]["squares"].values():
    row = by_size["32"]
    assert row["images"] == row["people"] > 5
    assert row["before"][0] < row["after"][0] == 1.0
    assert row["after"][-1] == 0.0  # Scores of 0.6 are below 0.8.
    assert row["low"][0] > 0
    assert row["elsewhere_before"][0] > row["elsewhere_after"][0] == 0
  nothing = evaluate(lambda x_NHWC: [faces()] * len(x_NHWC))
  by_group = nothing["by_detector"]["squares"]
  assert by_group[problem.group_names[0]] == {"32": None, "16": None}


@pytest.mark.parametrize("text", ["64", "16,x", "4", "16,,8"])
def test_sizes_that_suit_no_detector_are_refused(text):
  with pytest.raises(types.InputError, match="8 to 32, the side of the images"):
    recall_curves._sizes(text, 32)
  assert recall_curves._sizes("32, 16", 32) == [32, 16]
