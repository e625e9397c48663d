import pathlib

import PIL.Image
import pytest

from experiments.configs import tufts_modalities
from icm_jax import types
from icm_jax.data.builders import tufts_faces
from icm_jax.training import build


@pytest.fixture
def manual(tmp_path):
  folder = tmp_path / "manual"
  folder.mkdir()
  return folder


@pytest.fixture
def make(manual, tmp_path):
  """A function that makes a builder."""
  return lambda: tufts_faces.TuftsFaces(
    manual_dir=manual, data_dir=tmp_path / "data"
  )


def add(path: pathlib.Path) -> pathlib.Path:
  """Adds a made-up picture."""
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.new("RGB", (8, 8)).save(path, format="JPEG")
  return path


@pytest.mark.parametrize(
  ("file", "person", "modality", "expression", "pose", "series"),
  [
    ("TD_RGB_E_Set1/1/TD_RGB_E_1.jpg", "1", "visible", "neutral", -1, 1),
    ("TD_RGB_E_Set2/33/TD_RGB_E_2.jpg", "33", "visible", "smile", -1, 2),
    ("TD_RGB_E_Set3/7/TD_RGB_E_3.jpg", "7", "visible", "eyes_closed", -1, 3),
    ("TD_RGB_E_Set4/7/TD_RGB_E_4.jpg", "7", "visible", "shocked", -1, 4),
    ("TD_IR_E_Set1/7/TD_IR_E_5.jpg", "7", "thermal", "sunglasses", -1, 1),
    ("TD_IR_E_Set1/7/TD_IR_E_6.jpg", "7", "thermal", "", -1, 1),
    ("TD_RGB_A_Set1/7/TD_RGB_A_9.jpg", "7", "visible", "", 9, 1),
    ("TD_IR_A_Set2/7/TD_IR_A_1.jpg", "7", "thermal", "", 1, 2),
    ("TD_NIR_A_Set1/7/TD_NIR_A_17.jpg", "7", "near_infrared", "", 17, 1),
    ("TD_NIR_A_Set1/7/20180101123456.jpg", "7", "near_infrared", "", -1, 1),
    ("TD_LYT_A_Set1/7/TD_LYT_A_2.jpg", "7", "lytro", "", 2, 1),
    ("TD_LYTRO_Set1/7/TD_LYT_A_2.jpg", "7", "lytro", "", 2, 1),
    ("TD_3D_Set1/7/TD_3D_4.jpg", "7", "3d", "", -1, 1),
    ("TD_CS/007/TD_CS_7.jpg", "7", "sketch", "", -1, -1),
    ("TD_CS_Set4/7/sketch.jpg", "7", "sketch", "", -1, 4),
    ("TD_VIDEO_Set1/7/frame_3.jpg", "7", "video", "", -1, 1),
    ("TD_RGB_Set1/7/TD_RGB_E_2.jpg", "7", "visible", "smile", -1, 1),
    ("TD_RGB_E/TD_RGB_E/7/2.JPG", "7", "visible", "smile", -1, -1),
    ("td_rgb_e_set_12/7/td_rgb_e_2.jpg", "7", "visible", "smile", -1, 12),
  ],
)
def test_paths_become_columns(
  manual, prepare, file, person, modality, expression, pose, series
):
  path = add(manual / file)
  (example,), skipped = prepare()
  assert not skipped
  texts = ("file", "person", "modality", "expression")
  assert [example[name].decode() for name in texts] == [
    file,
    person,
    modality,
    expression,
  ]
  assert example["pose"] == pose
  assert example["set"] == series
  assert example["image"] == path.read_bytes()


def test_unusable_files_are_named(manual, prepare):
  add(manual / "TD_RGB_E_Set1" / "1" / "TD_RGB_E_1.jpg")
  add(manual / "TD_RGB_E_Set1" / "TD_RGB_E_1.jpg")
  add(manual / "TD_XRAY_Set1" / "1" / "a.jpg")
  add(manual / "RGB" / "1" / "a.jpg")
  add(manual / "loose.jpg")
  for name in (
    "TD_VIDEO_Set1/1/video.avi",
    "TD_RGB_E_Set1/1/Thumbs.db",
    "TD_RGB_E_Set1/1/.DS_Store",
    "TD_RGB_E_Set1/.hidden/a.txt",
    ".DS_Store",
  ):
    path = manual / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
  examples, skipped = prepare()
  assert [e["file"] for e in examples] == [b"TD_RGB_E_Set1/1/TD_RGB_E_1.jpg"]
  assert dict(skipped) == {
    "RGB": "unknown folder",
    "TD_XRAY_Set1": "unknown folder",
    "loose.jpg": "not in a folder of the data set",
    "TD_RGB_E_Set1/TD_RGB_E_1.jpg": "not in a folder of a person",
    "TD_RGB_E_Set1/1/Thumbs.db": "not a picture",
    "TD_VIDEO_Set1/1/video.avi": "not a picture",
  }


def test_damaged_files_are_kept_as_they_are(manual, prepare):
  """They are named later, when pictures are decoded."""
  path = add(manual / "TD_RGB_E_Set1" / "1" / "TD_RGB_E_1.jpg")
  path.write_bytes(path.read_bytes()[:100])
  path.with_name("TD_RGB_E_2.jpg").write_bytes(b"")
  examples, _ = prepare()
  assert [len(e["image"]) for e in examples] == [100, 0]


@pytest.mark.parametrize(
  ("inside", "message"),
  [
    (None, "Missing"),
    ((), "is empty"),
    (("TD_RGB_E_Set1/1",), "No picture"),
    (("TD_CS", "other"), "No picture"),
  ],
)
def test_nothing_to_read_says_what_to_put_where(manual, make, inside, message):
  if inside is None:
    manual.rmdir()
  for folder in inside or ():
    (manual / folder).mkdir(parents=True)
  with pytest.raises(types.InputError, match=message) as caught:
    make().download_and_prepare()
  assert "TD_RGB_E_Set1/PERSON/TD_RGB_E_1.jpg" in str(caught.value)
  data = manual.parent / "data"
  assert not [path for path in data.rglob("*") if path.is_file()]


def test_the_config_reads_the_original_folders(manual, tmp_path):
  for person in range(5):
    for file in (
      "TD_RGB_E_Set1/{}/TD_RGB_E_1.jpg",
      "TD_RGB_E_Set1/{}/TD_RGB_E_2.jpg",
      "TD_IR_E_Set1/{}/TD_IR_E_1.jpg",
      "TD_NIR_A_Set1/{}/TD_NIR_A_1.jpg",
      "TD_CS_Set1/{}/TD_CS_1.jpg",
    ):
      add(manual / file.format(person))
  config = tufts_modalities.get_config("smoke")
  config.data.manual_dir = str(manual)
  config.data.dir = str(tmp_path / "data")
  problem = build.build(config).problem
  assert problem.group_names == ("thermal", "near_infrared", "sketch")
  # One of the five people is the test part; both sides show the others.
  counts = problem.counts()
  assert counts["transformed"] == 12
  assert counts["transformed/sketch"] == 4
  assert counts["test/sketch"] == 1
