"""Sides of a problem that are alike in chosen labels."""

import numpy as np
import pytest

from icm_jax import types
from icm_jax.data import matching, problem, roles


def labels(*rows):
  return np.array(rows, bool).reshape(-1, 1)


def test_canonical_images_are_drawn_as_transformed_ones_are():
  # One group has three men of four, the other one of two: 62.5 % on average.
  label_NL = labels(1, 1, 1, 0, 1, 0, 1, 0, 0, 0)
  share_N = matching.probabilities(
    label_NL, [np.arange(4), np.arange(4, 6)], np.arange(6, 10), ["Male"]
  )
  np.testing.assert_allclose(share_N, [0.625, 0.125, 0.125, 0.125])


def test_combinations_of_labels_are_matched():
  label_NL = np.array([[0, 0], [1, 1], [0, 0], [1, 1], [1, 1], [0, 1]], bool)
  share_N = matching.probabilities(
    label_NL, [np.array([0, 1])], np.arange(2, 6), ["Male", "Young"]
  )
  np.testing.assert_allclose(share_N, [0.5, 0.25, 0.25, 0.0])


def test_labels_without_a_canonical_image_are_named():
  label_NL = np.array([[1, 0], [0, 0], [0, 1]], bool)
  with pytest.raises(types.InputError, match="has Male=1, Young=0"):
    matching.probabilities(
      label_NL, [np.array([0])], np.array([1, 2]), ["Male", "Young"]
    )


@pytest.fixture
def skewed(drawn):
  """A data set whose canonical images are mostly women."""
  rng = np.random.default_rng(0)
  columns = dict(drawn.images.columns)
  grouped_N = columns["label"] > 0
  columns["Male"] = rng.random(160) < np.where(grouped_N, 0.9, 0.2)
  return drawn._replace(
    images=drawn.images._replace(columns=columns),
    roles=roles.Roles("label=0", {"one": "label=1", "two": "label=2"}),
  )


def test_batches_have_the_same_shares_on_both_sides(skewed):
  made = problem.make_problem(skewed, seed=0, matched={"Male": "Male=1"})
  plain = problem.make_problem(skewed, seed=0)
  np.testing.assert_array_equal(made.canonical_ids, plain.canonical_ids)
  male_N = skewed.images.columns["Male"]
  for m, expected in ((made, True), (plain, False)):
    pixels = {m.images.image_NHWC[n].tobytes(): n for n in m.train_ids}
    shares = []
    for side in ("source_BHWC", "canonical_BHWC"):
      drawn_ids = [
        pixels[x_HWC.tobytes()]
        for step in range(60)
        for x_HWC in getattr(
          problem.draw_raw(m, seed=0, step=step, batch_size=16), side
        )
      ]
      shares.append(male_N[drawn_ids].mean())
    assert (abs(shares[0] - shares[1]) < 0.06) == expected
  again = [
    problem.draw_raw(made, seed=0, step=3, batch_size=8).canonical_BHWC
    for _ in range(2)
  ]
  np.testing.assert_array_equal(*again)


def test_image_mechanisms_have_nothing_to_match(drawn):
  with pytest.raises(types.InputError, match="matched=label=1 needs groups"):
    problem.make_problem(drawn, seed=0, matched={"label=1": "label=1"})


def test_settings_are_chosen_on_the_validation_split(skewed):
  columns = dict(skewed.images.columns)
  columns["split"] = np.array(columns["split"], "U10")
  columns["split"][60:120] = "validation"
  data = skewed._replace(images=skewed.images._replace(columns=columns))
  tested = problem.make_problem(data, seed=0)
  chosen = problem.make_problem(data, seed=0, measured="validation")
  assert set(chosen.test_ids) <= set(range(60, 120))
  assert set(tested.test_ids) <= set(range(120, 160))
  for name in ("transformed_ids", "canonical_ids", "judge_ids"):
    np.testing.assert_array_equal(getattr(tested, name), getattr(chosen, name))
  # The gate's margin comes from images that are neither trained on nor tested.
  clean = set(tested.clean_ids)
  assert clean
  assert clean <= set(range(60, 120))
  np.testing.assert_array_equal(chosen.clean_ids, chosen.canonical_ids)
  with pytest.raises(types.InputError, match="has no validation split"):
    problem.make_problem(skewed, seed=0, measured="validation")
  with pytest.raises(types.InputError, match="one of test, validation"):
    problem.make_problem(skewed, seed=0, measured="train")
