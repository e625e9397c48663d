"""The probe, and the table of attributes before and after experts."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import types
from icm_jax.data import augment
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import attribute_transfer, attributes, restoration
from icm_jax.evaluation import probe as probe_lib


def bits(*rows):
  return np.array([[character == "1" for character in row] for row in rows])


def test_accuracies_by_hand():
  rows = probe_lib.accuracies(
    bits("11", "11", "01", "00", "00"),
    bits("10", "10", "10", "00", "00"),
    ("hat", "scarf"),
  )
  assert rows["hat"] == {
    "accuracy": pytest.approx(5 / 6),
    "with": pytest.approx(2 / 3),
    "without": 1.0,
    "images_with": 3,
    "counts": True,
  }
  # No image has the attribute, so that one of the shares is unknown.
  assert rows["scarf"] == {
    "accuracy": None,
    "with": None,
    "without": pytest.approx(2 / 5),
    "images_with": 0,
    "counts": False,
  }


def test_likeness_by_hand():
  angle_N = np.radians([0, 60, 100, 180])
  face_N2 = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
  measured = probe_lib.likeness(face_N2, np.array([7, 7, 3, 3]))
  assert measured == {
    # Pairs of one person are 60 and 80 degrees apart, others 100, 180, 40, 120.
    "same_person": pytest.approx(np.cos(np.radians([60, 80])).mean()),
    "two_people": pytest.approx(np.cos(np.radians([100, 180, 40, 120])).mean()),
    "told_apart": 6 / 8,
  }
  assert probe_lib.likeness(face_N2, np.arange(4)) is None
  assert probe_lib.likeness(face_N2, np.zeros(4)) is None


def test_changes_by_hand():
  face_N2 = np.array([[1.0, 0], [0, 1], [1, 0]])
  before = probe_lib.Seen(bits("110", "100", "001"), face_N2)
  after = probe_lib.Seen(bits("010", "111", "001"), face_N2[::-1])
  everything = np.array([True, True, True])
  measure = functools.partial(
    attributes.change, attribute=0, names=("hat", "scarf", "bow")
  )
  assert measure(before, after, counts_K=everything) == {
    "gone": 0.5,  # One of the two images that had it.
    "unchanged": {
      "scarf": pytest.approx(2 / 3),
      "bow": pytest.approx(2 / 3),
    },
    "others_unchanged": pytest.approx(4 / 6),
    "all_others_unchanged": pytest.approx(2 / 3),
    "likeness": 1.0,
  }
  nothing_else = np.array([True, False, False])
  unknown = before._replace(face_NP=None)
  assert measure(unknown, after, counts_K=nothing_else) == {
    "gone": 0.5,
    "unchanged": {},
    "others_unchanged": None,
    "all_others_unchanged": None,
    "likeness": None,
  }
  nowhere = before._replace(has_NK=~everything[None].repeat(3, axis=0))
  assert measure(nowhere, after, counts_K=everything)["gone"] is None


def test_labels_contain_groups_and_further_attributes(rows_problem):
  data, problem = rows_problem
  labels = probe_lib.make_labels(data, problem, ("label=0|1", "two"))
  assert labels.names == ("one", "two", "label=0|1")
  label_N = data.images.label_N
  expected_NK = np.stack([label_N == 1, label_N == 2, label_N < 2], axis=1)
  np.testing.assert_array_equal(labels.has_NK, expected_NK)
  person_N = data.images.columns["person"]
  same_NN = labels.person_N[:, None] == labels.person_N[None]
  np.testing.assert_array_equal(same_NN, person_N[:, None] == person_N[None])


def test_a_probe_learns_and_never_sees_the_test_part(rows_problem):
  data, problem = rows_problem
  labels = probe_lib.make_labels(data, problem, ())

  def train(problem, steps):
    return probe_lib.train(
      problem,
      labels,
      augmentation=augment.Augmentation(flip=0.5),
      seed=0,
      batch_size=32,
      training={"steps": steps, "batch_size": 32, "learning_rate": 2e-3},
    )

  x_NHWC = np.asarray(problem_lib.to_float(problem.images.image_NHWC))
  test_ids = problem.test_ids
  probe = train(problem, 60)
  seen = probe(x_NHWC[test_ids])
  mirrored = probe(x_NHWC[test_ids, :, ::-1])
  np.testing.assert_array_equal(seen.has_NK, mirrored.has_NK)
  rows = probe_lib.accuracies(
    seen.has_NK, labels.has_NK[test_ids], labels.names
  )
  assert all(row["accuracy"] > 0.9 for row in rows.values())
  people = np.unique(labels.person_N[problem.judge_ids])
  assert seen.face_NP.shape == (len(test_ids), len(people))
  np.testing.assert_allclose((seen.face_NP**2).sum(axis=1), 1, rtol=1e-5)
  np.testing.assert_allclose(seen.face_NP.sum(axis=1), 0, atol=1e-4)

  assert not np.isin(labels.person_N[test_ids], people).any()
  image_NHWC = np.array(problem.images.image_NHWC)
  image_NHWC[test_ids] = 0
  images = problem.images._replace(image_NHWC=image_NHWC)
  for a, b in zip(
    train(problem, 2)(x_NHWC[:9]),
    train(problem._replace(images=images), 2)(x_NHWC[:9]),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


@pytest.fixture
def squares(rows_problem, make_setup, make_state):
  """Experts move squares up by a row, by two, and not at all.

  Returns:
    Setup, state, and a judge of the rows in which squares are.
  """
  data, problem = rows_problem

  def apply(params, stats, x_BHWC, *, train):
    del train
    moved = [jnp.roll(x_BHWC, -6 * rows, axis=1) for rows in (1, 2, 0)]
    return jnp.einsum(
      "e,ebhwc->bhwc", params["choice"], jnp.stack(moved)
    ), stats

  def discriminate(params, stats, x_BHWC, *, train):
    del params, train
    return -x_BHWC[:, 12:].sum(axis=(1, 2, 3)), stats  # It likes the top.

  setup = make_setup((32, 32, 1))._replace(
    expert=types.Network(lambda key: ({}, {}), apply),
    discriminator=types.Network(lambda key: ({}, {}), discriminate),
  )
  state = make_state(make_setup()).replace(
    experts_E={"choice": jnp.eye(3)},
    expert_stats_E={},
    discriminator={},
  )

  def probe(x_NHWC):
    """Sees rows as they are; a face is its row."""
    bright_N12 = [
      x_NHWC[:, r : r + 4].max(axis=(1, 2, 3)) > 0 for r in (14, 20)
    ]
    has_N2 = np.stack(bright_N12, axis=1)
    face_N3 = np.concatenate([has_N2, ~has_N2.any(axis=1, keepdims=True)], 1)
    return probe_lib.Seen(has_N2, face_N3.astype(np.float32))

  labels = probe_lib.make_labels(data, problem, ())
  return setup, state, probe_lib.judge(problem, labels, probe)


@pytest.mark.parametrize("margin", [-1e9, 1e9])
def test_experts_are_measured_by_a_probe(margin, rows_problem, squares):
  _, problem = rows_problem
  setup, state, judge = squares
  measured = attributes.evaluate(
    state,
    problem,
    restoration.make_examples(problem, (), seed=0, num_examples=12),
    judge,
    np.array([[9, 0], [0, 0], [1, 9]]),
    margin=margin,
    setup=setup,
    batch_size=5,
  )
  assert [row["accuracy"] for row in measured["probe"].values()] == [1.0, 1.0]
  one, two = measured["by_group"].values()
  assert (one["images"], one["seen"]) == (6, 1.0)
  assert one["gone_by_expert"] == [1.0, 1.0, 0.0]
  assert two["gone_by_expert"] == [1.0, 1.0, 0.0]
  # The winner of two is the expert that moves squares by two rows.
  assert (one["won_by_own"], two["won_by_own"]) == (1.0, 0.0)
  assert (one["gone_own"], one["gone_others_max"]) == (1.0, 1.0)
  assert (two["gone_own"], two["gone_others_max"]) == (0.0, 1.0)
  assert one["gone_restored"] == one["restored"]["gone"]
  assert two["others_kept"] == two["others_kept_shifted"] == 1.0
  # Squares of canonical images are moved, unless the gate leaves them alone.
  canonical = measured["canonical"]
  assert canonical["images"] == (problem.group_N[problem.test_ids] < 0).sum()
  assert canonical["changed"] == (margin < 0)
  assert (canonical["change"] > 0) == (margin < 0)
  assert canonical["change_ungated"] > 0
  assert canonical["kept"] == 1.0
  assert sum(canonical["change_by_expert"]) == pytest.approx(
    canonical["change"]
  )
  assert one["canonical_change"] == canonical["change_by_expert"][0]
  assert one["restored"] == one["oracle"] | {"gone": 1.0}
  # The other attribute is in no image of a group, before or after.
  assert one["others_right_before"] == one["others_right_after"] == 1.0
  image_NHWC = problem.images.image_NHWC[problem.group_N == 0]
  wrong = attributes.group_change(
    state,
    np.asarray(problem_lib.to_float(image_NHWC)),
    judge,
    label_NK=np.ones((len(image_NHWC), 2), bool),
    attribute=0,
    own=0,
    setup=setup,
    batch_size=5,
  )
  assert wrong["others_right_before"] == wrong["others_right_after"] == 0.0
  # A pixel further down, the probe sees another row.
  above_NHWC = np.zeros((5, 32, 32, 1), np.float32)
  above_NHWC[:, 13] = 1.0
  above = attributes.group_change(
    state, above_NHWC, judge, attribute=1, own=0, setup=setup, batch_size=5
  )
  assert above["others_kept_shifted"] == 0.0
  assert two["restored"]["others_unchanged"] == 1.0
  # The expert that copies its input is the group's own expert here.
  alike = measured["likeness"]
  distance = alike["same_person"] - alike["two_people"]
  assert two["oracle"] == {
    "gone": 0.0,
    "unchanged": {"one": 1.0},
    "others_unchanged": 1.0,
    "all_others_unchanged": 1.0,
    "likeness": 1.0,
    "relative_likeness": pytest.approx((1 - alike["two_people"]) / distance),
  }
  assert two["restored"]["likeness"] == 0.0


@pytest.mark.parametrize("margin", [-1e9, 1e9])
def test_a_probe_says_which_images_of_another_data_set_count(margin, squares):
  """Two images have one, none has two alone, one has both, three have none."""
  setup, state, judge = squares
  x_NHWC = np.zeros((6, 32, 32, 1), np.float32)
  x_NHWC[[0, 3], 14:18, 8:12] = 1.0
  x_NHWC[4, 14:24, 8:12] = 1.0
  x_NHWC[5, 2:6, 8:12] = 1.0
  measured = attribute_transfer.evaluate(
    state,
    x_NHWC,
    judge,
    np.array([[9, 0], [0, 9], [1, 0]]),
    margin=margin,
    setup=setup,
    batch_size=5,
  )
  assert measured["images"] == 6
  assert measured["probe"] == judge.accuracy
  one, two = measured["by_group"].values()
  assert two is None
  assert (one["images"], one["seen"], one["won_by_own"]) == (2, 1.0, 1.0)
  assert (one["gone_restored"], one["gone_own"]) == (1.0, 1.0)
  assert one["gone_others_max"] == 1.0
  assert one["others_right_after"] is None  # Nobody has labelled them.
  none = measured["none"]
  assert (none["images"], none["changed"]) == (3, margin < 0)
  full = attribute_transfer.evaluate(
    state,
    x_NHWC[[0, 3]],
    judge,
    np.array([[9, 0], [0, 9], [1, 0]]),
    margin=margin,
    setup=setup,
    batch_size=5,
  )
  assert full["none"] is None
