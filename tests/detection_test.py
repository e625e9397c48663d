"""Boxes of faces, classical tools, and the table of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import mechanisms, types
from icm_jax.evaluation import classical, detection, detection_table

KEY = jax.random.key(0)
FAMILIES = {  # One mechanism each.
  mechanisms.family(mechanism): name
  for name, mechanism in mechanisms.MECHANISMS.items()
  if name not in mechanisms.PRESETS["mnist_c"]["names"]
}


def faces_of(*boxes):
  box_N4 = np.array(boxes, np.float32).reshape(-1, 4)
  return detection.Faces(box_N4, np.linspace(0.9, 0.5, len(box_N4)))


def bright(x_BHWC):
  """A detector of bright images: the whole image is a face, or nothing is."""
  _, height, width, _ = x_BHWC.shape
  return [
    faces_of((0, 0, width, height)) if x_HWC.mean() > 0.5 else faces_of()
    for x_HWC in x_BHWC
  ]


def test_overlaps_by_hand():
  a_N4 = np.array([[0, 0, 4, 4], [10, 10, 12, 12]], np.float32)
  b_N4 = np.array([[2, 0, 6, 4], [0, 0, 4, 4], [0, 0, 0, 0]], np.float32)
  np.testing.assert_allclose(
    detection.overlaps(a_N4, b_N4), [[8 / 24, 1, 0], [0, 0, 0]]
  )


def test_the_best_of_overlapping_boxes_stays():
  box_N4 = np.array(
    [[1, 0, 5, 4], [0, 0, 4, 4], [9, 9, 12, 12], [2, 0, 6, 4]], np.float32
  )
  score_N = np.array([0.8, 0.9, 0.6, 0.7])
  # A dropped box drops no other: the last one overlaps only the first.
  kept = detection.suppress(box_N4, score_N, most_overlap=0.5)
  np.testing.assert_array_equal(kept, [1, 3, 2])
  kept = detection.suppress(box_N4, score_N, most_overlap=0.7)
  np.testing.assert_array_equal(kept, [1, 0, 3, 2])
  assert detection.suppress(box_N4[:0], score_N[:0], most_overlap=0).size == 0


def test_matches_by_hand():
  expected = [faces_of((0, 0, 10, 10), (20, 0, 30, 10)), faces_of()]
  found = [
    # The first face is found twice, the second with too little overlap.
    faces_of((0, 0, 10, 10), (0, 0, 10, 9), (26, 0, 36, 10)),
    faces_of((0, 0, 5, 5)),
  ]
  assert detection.match(expected, found) == (0.5, 1.5)
  assert detection.match(expected, expected) == (1.0, 0.0)
  assert detection.match([faces_of()], [faces_of()]) == (None, 0.0)
  assert detection.match(expected, [faces_of(), faces_of()]) == (0.0, 0.0)


def test_enlarging_leaves_a_black_border():
  x_BHWC = np.full((2, 8, 8, 1), 0.5, np.float32)
  y_BHWC = detection.enlarge(x_BHWC, side=64, border=16)
  assert y_BHWC.shape == (2, 64, 64, 1)
  np.testing.assert_allclose(y_BHWC[:, 16:-16, 16:-16], 0.5, rtol=1e-6)
  assert y_BHWC.sum() == pytest.approx(2 * 32 * 32 * 0.5)


def test_crops_are_enlarged_for_a_detector():
  """Boxes of enlarged crops with a border become boxes of the crops."""
  seen = []

  def detect(x_BHWC):
    seen.append(x_BHWC.shape)
    return [faces_of((16, 16, 32, 48))] * len(x_BHWC)

  detect_crops = detection.of_crops(detect, side=64, border=16, batch_size=2)
  found = detect_crops(np.zeros((3, 8, 8, 1), np.float32))
  assert seen == [(2, 64, 64, 3), (1, 64, 64, 3)]
  for faces in found:
    np.testing.assert_allclose(faces.box_N4, [[0, 0, 4, 8]])
    np.testing.assert_allclose(faces.score_N, [0.9])
  with pytest.raises(types.InputError, match="larger than two borders"):
    detection.of_crops(detect, side=64, border=32, batch_size=2)


def test_a_missing_opencv_is_named(monkeypatch):
  monkeypatch.setattr(classical, "cv2", None)
  with pytest.raises(types.InputError, match="opencv-python-headless"):
    classical.check_installed()


@pytest.mark.parametrize(
  ("name", "channels"),
  [
    (name, channels)
    for name in FAMILIES.values()
    for channels in (1, 3)
    if (name, channels) != ("colour_cast", 1)
  ],
)
def test_classical_tools_undo_a_part(photos, name, channels):
  pytest.importorskip("cv2", reason="the extra faces is missing")
  x_BHWC = photos[:1, :80, :80].reshape(1, 40, 2, 40, 2, 1).mean((2, 4))
  x_BHWC = np.repeat(x_BHWC, channels, axis=-1)
  (mechanism,) = mechanisms.by_names(
    [name], {"hand": {"level": 0.0}, "noise": {"stddev": 0.2}}
  )
  distorted_BHWC = np.asarray(mechanism(KEY, jnp.asarray(x_BHWC[0])))[None]
  restored_BHWC = classical.restore(mechanism, distorted_BHWC)
  assert restored_BHWC.shape == x_BHWC.shape
  assert restored_BHWC.dtype == np.float32
  assert 0 <= restored_BHWC.min() <= restored_BHWC.max() <= 1
  before, after = (
    np.square(y_BHWC - x_BHWC).mean()
    for y_BHWC in (distorted_BHWC, restored_BHWC)
  )
  assert after < 0.95 * before


def test_images_without_a_classical_tool_stay(photos):
  pytest.importorskip("cv2", reason="the extra faces is missing")
  x_BHWC = np.float32(photos[:1])
  (fog,) = mechanisms.by_names(["fog"], {})
  np.testing.assert_array_equal(classical.restore(fog, x_BHWC), x_BHWC)


def test_a_table_by_hand():
  clean = np.array([0.9, 0.8, 0.2])[:, None, None, None] * np.ones((1, 4, 4, 1))
  rows = detection_table.table(
    bright,
    clean,
    clean,
    {
      "dark": {
        "transformed": clean - 0.35,
        "restored": 1 - clean,
        "oracle": None,
      }
    },
  )
  assert rows == {
    "dark": {
      "transformed": 0.5,
      "restored": 0.0,
      "oracle": None,
      "clean": 1.0,
      "clean_gated": 1.0,
      "faces": 2,
      "false_detections": {
        "transformed": 0.0,
        "restored": pytest.approx(1 / 3),
        "oracle": None,
        "clean": 0.0,
        "clean_gated": 0.0,
      },
    }
  }


def test_equal_images_are_processed_once():
  looked = []

  def detect(x_BHWC):
    looked.append(len(x_BHWC))
    return bright(x_BHWC)

  clean = np.array([0.875, 0.75, 0.25, 0.25])[:, None, None, None]
  clean = clean * np.ones((1, 4, 4, 1))
  versions = {
    "one": {"transformed": 1 - clean, "restored": clean},
    "two": {"transformed": clean[::-1], "restored": clean - 0.125},
  }
  rows = detection_table.table(detect, clean, clean, versions)
  assert looked == [3, 1, 1]  # Three different images, then 0.125, then 0.625.
  assert [row["restored"] for row in rows.values()] == [1.0, 1.0]
  assert [row["transformed"] for row in rows.values()] == [0.0, 0.0]


@pytest.fixture
def toy(make_setup, make_state):
  """Experts lighten, darken and copy; D likes bright images."""

  def apply(params, stats, x_BHWC, *, train):
    del train
    return jnp.clip(x_BHWC + params["add"], 0, 1), stats

  def discriminate(params, stats, x_BHWC, *, train):
    del params, train
    return -jnp.abs(x_BHWC.mean(axis=(1, 2, 3)) - 0.7), stats

  setup = make_setup()._replace(
    expert=types.Network(lambda key: ({}, {}), apply),
    discriminator=types.Network(lambda key: ({}, {}), discriminate),
  )
  state = make_state(make_setup()).replace(
    experts_E={"add": jnp.array([0.6, -0.6, 0.0])},
    expert_stats_E={},
    discriminator={},
  )
  return setup, state


def test_experts_are_measured_by_found_faces(toy, drawn_problem, monkeypatch):
  monkeypatch.setattr(classical, "restore", lambda mechanism, x_BHWC: x_BHWC)
  setup, state = toy
  image_NHWC = drawn_problem.images.image_NHWC
  images = drawn_problem.images._replace(
    image_NHWC=np.full_like(image_NHWC, round(0.7 * 255))
  )
  rows = detection_table.evaluate(
    state,
    drawn_problem._replace(images=images),
    mechanisms.by_names(
      ["low_light", "invert"], {"low_light": {"light": 0.1, "stddev": 0.0}}
    ),
    # The darkening expert is the own expert of low light here.
    np.array([[0, 4], [4, 0], [0, 0]]),
    ["low_light", "invert"],
    setup=setup,
    detect=bright,
    single_network=lambda x_BHWC: 1 - x_BHWC,
    seed=0,
    examples=5,
    batch_size=3,
    margin=0.3,
  )
  recalls = {
    name: [row[version] for version in detection_table.VERSIONS]
    for name, row in rows.items()
  }
  # The columns are transformed, restored, oracle, gated, single network and
  # classical. Dark images gain 0.6 by lightening; inverted ones, at 0.3, 0.2.
  assert recalls == {
    "low_light": [0.0, 1.0, 0.0, 1.0, 1.0, 0.0],
    "invert": [0.0, 1.0, 1.0, 0.0, 1.0, 0.0],
  }
  # The best output of every expert is a copy, whose score is not higher.
  assert {row["clean_gated"] for row in rows.values()} == {1.0}
  assert {row["faces"] for row in rows.values()} == {5}
