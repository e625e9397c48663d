"""What a run makes of one picture."""

import dataclasses
import io

import numpy as np
import PIL.Image
import pytest

import icm_jax
from icm_jax import types
from icm_jax.evaluation import detection
from icm_jax.learned import examine
from tests import toy_run


@pytest.fixture(scope="module")
def examiner():
  return examine.Examiner(toy_run.learned())


def square():
  """A bright square in the middle of a dark image, uint8."""
  image_HWC = np.zeros(toy_run.SHAPE_HWC, np.uint8)
  image_HWC[13:19, 13:19] = 255
  return image_HWC


def file(array, kind="png"):
  buffer = io.BytesIO()
  PIL.Image.fromarray(array).save(buffer, format=kind)
  return buffer.getvalue()


@pytest.mark.parametrize("name", toy_run.MECHANISMS)
def test_the_winner_undoes_the_mechanism(examiner, name):
  found = examiner.examine(square(), [examine.Step(name)], margin=0.5)
  assert found.winner == toy_run.MECHANISMS.index(name)
  assert found.experts == (found.winner,)
  assert not found.is_left_alone
  assert found.change > 0.5
  plain, distorted = found.distorted
  np.testing.assert_array_equal(plain.image_HWC, square() / np.float32(255))
  assert distorted.score < plain.score
  assert len(found.outputs) == 4
  for stage in (found.outputs[found.winner], found.undone[-1]):
    np.testing.assert_allclose(stage.image_HWC, plain.image_HWC, atol=1e-6)
    assert stage.score == pytest.approx(plain.score, abs=1e-2)


def test_several_mechanisms_in_a_row_are_undone_by_a_chain(examiner):
  steps = [examine.Step("right"), examine.Step("invert")]
  found = examiner.examine(square(), steps, margin=0.5)
  assert found.steps == tuple(steps)
  assert len(found.distorted) == 3
  # They commute, but for the pixels that enter the frame.
  assert sorted(found.experts) == [0, 2]
  assert len(found.undone) == 2
  assert found.undone[1].score > found.undone[0].score


def test_a_clean_picture_is_left_alone(examiner):
  found = examiner.examine(square(), margin=0.5)
  assert found.is_left_alone
  assert found.winner == toy_run.COPY
  assert found.change == pytest.approx(0, abs=1e-3)
  assert found.experts == found.undone == ()
  found = examiner.examine(square(), [examine.Step("right")], margin=1e3)
  assert found.is_left_alone
  assert found.winner == 0


def test_scores_are_those_of_the_run(trained):
  learned = icm_jax.load(trained)
  examiner = examine.Examiner(learned)
  assert tuple(examiner.mechanisms) == learned.mechanisms
  image_HWC = np.random.default_rng(0).integers(0, 256, (32, 32, 1), np.uint8)
  found = examiner.examine(image_HWC, margin=learned.margin)
  expected = learned.restore(image_HWC[None])
  assert found.winner == expected.winner_B[0]
  assert found.change == pytest.approx(expected.change_B[0], abs=1e-4)
  best = found.outputs[found.winner]
  assert best.score == pytest.approx(expected.score_B[0], abs=1e-4)
  np.testing.assert_allclose(
    best.image_HWC, expected.restored_BHWC[0], atol=1e-5
  )
  chain = learned.chain(image_HWC[None], margin=learned.margin)
  if found.experts:
    np.testing.assert_allclose(
      found.undone[-1].image_HWC, chain.restored_BHWC[0], atol=1e-5
    )
  else:
    assert (chain.expert_BL == -1).all()


def test_unknown_mechanisms_list_the_known_ones(examiner):
  with pytest.raises(types.InputError, match=r"'noise'; known: right, down, "):
    examiner.examine(square(), [examine.Step("noise")])
  with pytest.raises(types.InputError, match=r"in \[0, 1\]; got 2"):
    examiner.examine(square(), [examine.Step("right", 2)])


def test_groups_of_pictures_cannot_be_applied(monkeypatch):
  learned = toy_run.learned()
  groups = dataclasses.replace(learned, mechanisms=("old", "dark"))
  assert examine.Examiner(groups).mechanisms == {}


def test_pictures_are_read_as_those_of_the_run(examiner):
  digit = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
  read = examiner.read(file(digit))
  np.testing.assert_array_equal(read[2:-2, 2:-2, 0], digit)
  with pytest.raises(types.InputError, match=r"left out: not a picture\."):
    examiner.read(b"nothing")


def test_drawings_lie_where_digits_of_mnist_lie(examiner):
  drawing = np.zeros((280, 280, 4), np.uint8)
  drawing[10:110, 200:250] = 255  # White and opaque.
  read = examiner.read_drawing(file(drawing))[..., 0]
  rows, columns = np.nonzero(read > 127)
  assert rows.max() - rows.min() + 1 == 20
  assert columns.max() - columns.min() + 1 == 10
  assert rows.mean() == pytest.approx(15.5, abs=0.5)
  assert columns.mean() == pytest.approx(15.5, abs=0.5)
  assert not examiner.read_drawing(file(0 * drawing)).any()
  with pytest.raises(types.InputError, match=r"not a picture"):
    examiner.read_drawing(b"nothing")


def test_drawings_stay_where_they_are_for_other_data_sets():
  learned = toy_run.learned()
  config = learned.config.copy_and_resolve_references()
  with config.unlocked():
    config.data.name = "omniglot"
  letters = dataclasses.replace(learned, config=config)
  examiner = examine.Examiner(letters)
  drawing = np.zeros((280, 280, 4), np.uint8)
  drawing[:40, :40] = 255
  read = examiner.read_drawing(file(drawing))
  assert read[2:5, 2:5].min() == 255
  assert not read[8:].any()
  # A file of the data set is black on white.
  ink = np.full((28, 28), 255, np.uint8)
  assert not examiner.read(file(ink)).any()


def bright(x_BHWC):
  """Detects a face in bright images."""
  box_N4, score_N = np.zeros((1, 4), np.float32), np.ones(1, np.float32)
  counts = [int(x_HWC.mean() > 0.5) for x_HWC in x_BHWC]
  return [detection.Faces(box_N4[:n], score_N[:n]) for n in counts]


def count(stage):
  return None if stage.faces is None else len(stage.faces.score_N)


def test_faces_are_looked_for_before_and_after():
  examiner = examine.Examiner(toy_run.learned(), detect=bright)
  found = examiner.examine(255 - square(), margin=0.5)
  assert found.experts == (2,)
  assert [count(stage) for stage in found.distorted] == [1]
  assert [count(stage) for stage in found.outputs] == [None, None, 0, None]
  assert [count(stage) for stage in found.undone] == [0]
  steps = [examine.Step("right"), examine.Step("invert")]
  found = examiner.examine(square(), steps, margin=0.5)
  assert [count(stage) for stage in found.distorted] == [0, None, 1]
  assert count(found.outputs[found.winner]) == 0
  assert [count(stage) for stage in found.undone] == [None, 0]


@pytest.mark.parametrize(
  ("name", "examples", "expected"),
  [
    ("mnist_5k", 0, False),
    ("omniglot", 0, False),
    ("orl_faces", 0, True),
    ("celeb_a", 0, True),
    ("folder:/mine", 0, False),
    ("folder:/mine", 5, True),
  ],
)
def test_configs_say_whether_pictures_are_faces(name, examples, expected):
  learned = toy_run.learned()
  config = learned.config.copy_and_resolve_references()
  with config.unlocked():
    config.data.name, config.detection.examples = name, examples
  other = dataclasses.replace(learned, config=config)
  assert examine.shows_faces(other) is expected
