import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import real_and_fake_faces

SHARED = (
  pathlib.Path(__file__).parents[3] / "shared" / "data" / "real_and_fake_face"
)
PARTS = real_and_fake_faces.PARTS


@pytest.fixture
def manual(tmp_path):
  return tmp_path / "manual"


@pytest.fixture
def make(manual, tmp_path):
  """A function that makes a builder."""
  return lambda: real_and_fake_faces.RealAndFakeFaces(
    manual_dir=manual, data_dir=tmp_path / "data"
  )


def add(folder: pathlib.Path, *names: str) -> None:
  """Adds made-up pictures."""
  folder.mkdir(parents=True, exist_ok=True)
  for number, name in enumerate(names):
    image = PIL.Image.new("RGB", (8, 8), (number, 0, 0))
    image.save(folder / name, format="JPEG")


def test_names_become_columns(manual, prepare):
  add(manual / "training_real", "real_00001.jpg")
  add(manual / "training_fake", "mid_2_1010.jpg", "easy_12_0001.jpg")
  add(manual / "training_fake", "hard_3_1111.jpg")
  examples, skipped = prepare()
  assert not skipped
  expected = [
    ("training_real/real_00001.jpg", "", "0000"),
    ("training_fake/easy_12_0001.jpg", "easy", "0001"),
    ("training_fake/hard_3_1111.jpg", "hard", "1111"),
    ("training_fake/mid_2_1010.jpg", "mid", "1010"),
  ]
  for example, (file, level, bits) in zip(examples, expected, strict=True):
    assert example["file"].decode() == file
    assert example["difficulty"].decode() == level
    assert [example[part] for part in PARTS] == [bit == "1" for bit in bits]
    assert example["fake"] == bool(level)
    assert example["label"] == bool(level)
    assert example["image"] == (manual / file).read_bytes()


def test_names_that_do_not_fit_are_skipped(manual, prepare):
  add(manual / "training_real", "real_1.jpg", "real_x.jpg", "easy_1_1111.jpg")
  add(
    manual / "training_fake",
    "easy_1_0000.jpg",
    "easy_1_111.jpg",
    "easy_1_1121.jpg",
    "real_2.jpg",
    "very_1_1111.jpg",
    "easy_1_1111.png",
  )
  (manual / "training_real" / "._real_1.jpg").write_bytes(b"hidden")
  (manual / "training_real" / "Thumbs.db").write_bytes(b"no picture")
  examples, skipped = prepare()
  assert [e["file"] for e in examples] == [b"training_real/real_1.jpg"]
  reasons = dict(skipped)
  zero = reasons.pop("training_fake/easy_1_0000.jpg")
  assert zero == "a fake without a replaced part"
  assert set(reasons.values()) == {"unexpected file name"}
  assert set(reasons) == {
    "training_real/real_x.jpg",
    "training_real/easy_1_1111.jpg",
    "training_fake/easy_1_111.jpg",
    "training_fake/easy_1_1121.jpg",
    "training_fake/real_2.jpg",
    "training_fake/very_1_1111.jpg",
    "training_fake/easy_1_1111.png",
  }


@pytest.mark.parametrize(
  ("folder", "name"),
  [("training_real", "real_00001.jpg"), ("training_fake", "easy_1_1000.jpg")],
)
def test_one_folder_is_enough(manual, prepare, folder, name):
  add(manual / folder, name)
  examples, _ = prepare()
  assert [e["file"].decode() for e in examples] == [f"{folder}/{name}"]


def test_damaged_files_are_kept_as_they_are(manual, prepare):
  """They are named later, when pictures are decoded."""
  add(manual / "training_real", "real_1.jpg", "real_2.jpg")
  path = manual / "training_real" / "real_2.jpg"
  path.write_bytes(path.read_bytes()[:100])
  (manual / "training_real" / "real_3.jpg").write_bytes(b"")
  examples, _ = prepare()
  assert [len(e["image"]) for e in examples][1:] == [100, 0]


@pytest.mark.parametrize("folders", [[], ["training_real"], ["training_fake"]])
def test_nothing_to_read_says_what_to_put_where(manual, make, folders):
  for folder in folders:
    (manual / folder).mkdir(parents=True)
  with pytest.raises(types.InputError, match=r"training_real/real_NNNNN\.jpg"):
    make().download_and_prepare()
  data = manual.parent / "data"
  assert not [path for path in data.rglob("*") if path.is_file()]


def test_without_one_usable_picture_nothing_is_written(manual, make):
  add(manual / "training_fake", "easy_1_0000.jpg")
  with pytest.raises(types.InputError, match="No picture"):
    make().download_and_prepare()
  data = manual.parent / "data"
  assert not [path for path in data.rglob("*") if path.is_file()]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no sample data in {SHARED}")
def test_the_real_sample(tmp_path):
  builder = real_and_fake_faces.RealAndFakeFaces(
    manual_dir=SHARED, data_dir=tmp_path
  )
  builder.download_and_prepare()
  source = builder.as_data_source(
    split="train", decoders={"image": tfds.decode.SkipDecoding()}
  )
  assert not builder.info.metadata["skipped"]
  level_N = np.array([example["difficulty"].decode() for example in source])
  levels, counts = np.unique(level_N, return_counts=True)
  assert dict(zip(levels, counts, strict=True)) == {
    "": 70,
    "easy": 18,
    "mid": 34,
    "hard": 18,
  }
