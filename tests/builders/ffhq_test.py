import json
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import ffhq

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "ffhq"
NUMBERS = (0, 7, 12345, 69999)


def write(top: pathlib.Path, name: str, seed: int = 0) -> bytes:
  path = top / name
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  image_HWC = rng.integers(0, 256, (8, 8, 3), np.uint8)
  PIL.Image.fromarray(image_HWC).save(path, "PNG")
  return path.read_bytes()


@pytest.fixture
def manual(tmp_path):
  """Four images of two thousands and two splits."""
  for number in NUMBERS:
    name = f"{number // 1000:02}000/{number:05}.png"
    write(tmp_path / "manual" / "thumbnails128x128", name, number)
  return tmp_path / "manual"


def rows(*numbers: int) -> dict:
  """A table in the original layout."""
  return {
    str(number): {
      "category": "training" if number < 60000 else "validation",
      "metadata": {
        "photo_url": "https://www.flickr.com/photos/x/1/",
        "author": f"Zoë {number}",
        "license": "Attribution License",
      },
      "image": {
        "file_path": f"images1024x1024/{number:05}.png",
        "pixel_size": [1024, 1024],
        "face_landmarks": [[1.5, 2.5]] * 68,
      },
    }
    for number in numbers
  }


def write_table(manual: pathlib.Path, table) -> None:
  text = table if isinstance(table, str) else json.dumps(table)
  (manual / "ffhq-dataset-v2.json").write_text(text)


def make(tmp_path: pathlib.Path) -> ffhq.Ffhq:
  return ffhq.Ffhq(manual_dir=tmp_path / "manual", data_dir=tmp_path / "data")


def read(builder: ffhq.Ffhq, split: str) -> list[dict]:
  return list(
    builder.as_data_source(
      split=split, decoders={"image": tfds.decode.SkipDecoding()}
    )
  )


def refused(tmp_path: pathlib.Path, match: str) -> None:
  """Preparing fails with one line, and leaves no file."""
  with pytest.raises(types.InputError, match=match) as error:
    make(tmp_path).download_and_prepare()
  assert "\n" not in str(error.value)
  assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


def test_without_the_table_there_is_one_split(tmp_path, manual):
  (manual / "thumbnails128x128.zip").write_bytes(b"ignored")
  (manual / "thumbnails128x128" / "LICENSE.txt").write_text("ignored")
  builder = make(tmp_path)
  builder.download_and_prepare()
  assert list(builder.info.splits) == ["train"]
  examples = read(builder, "train")
  assert tuple(e["number"] for e in examples) == NUMBERS
  for example in examples:
    assert example["image"] == (manual / example["file"].decode()).read_bytes()
    assert example["author"] == example["licence"] == b""
  assert examples[2]["file"] == b"thumbnails128x128/12000/12345.png"
  assert list(builder.info.metadata["skipped"]) == []


def test_the_table_gives_splits_authors_and_licences(tmp_path, manual):
  write_table(manual, rows(*NUMBERS, 5))
  builder = make(tmp_path)
  builder.download_and_prepare()
  train, validation = read(builder, "train"), read(builder, "validation")
  assert tuple(e["number"] for e in train) == NUMBERS[:3]
  assert tuple(e["number"] for e in validation) == NUMBERS[3:]
  assert validation[0]["author"].decode() == "Zoë 69999"
  assert validation[0]["licence"] == b"Attribution License"
  assert list(builder.info.metadata["skipped"]) == []


def test_a_split_without_images_is_left_out(tmp_path, manual):
  (manual / "thumbnails128x128" / "69000" / "69999.png").unlink()
  write_table(manual, rows(*NUMBERS))
  builder = make(tmp_path)
  builder.download_and_prepare()
  assert list(builder.info.splits) == ["train"]


def test_images_without_a_usable_row_are_skipped(tmp_path, manual):
  table = rows(*NUMBERS)
  del table["7"]
  table["12345"]["category"] = ["test"]
  table["69999"]["category"] = "test"
  write_table(manual, table)
  make(tmp_path).download_and_prepare()
  builder = make(tmp_path)
  assert [e["number"] for e in read(builder, "train")] == [0]
  skipped = {name: why for name, why in builder.info.metadata["skipped"]}
  top = "thumbnails128x128"
  assert skipped == {
    f"{top}/00000/00007.png": "not in ffhq-dataset-v2.json",
    f"{top}/12000/12345.png": "no known category in ffhq-dataset-v2.json",
    f"{top}/69000/69999.png": "no known category in ffhq-dataset-v2.json",
  }


@pytest.mark.parametrize(
  ("metadata", "author"),
  [
    (None, b""),
    ([], b""),
    ({}, b""),
    ({"author": None, "license": 3}, b""),
    ({"author": "\ud83d"}, b"?"),  # Half a character.
  ],
)
def test_metadata_may_be_missing_or_odd(tmp_path, manual, metadata, author):
  table = rows(0)
  table["0"]["metadata"] = metadata
  write_table(manual, table)
  builder = make(tmp_path)
  builder.download_and_prepare()
  (example,) = read(builder, "train")
  assert (example["author"], example["licence"]) == (author, b"")


@pytest.mark.parametrize(
  ("table", "match"),
  [
    ("", "is not JSON"),
    (json.dumps(rows(0, 7))[:-9], "is not JSON"),
    ('{"a":' * 100_000, "is not JSON"),
    ([], "must be an object of objects"),
    ({"0": "training"}, "must be an object of objects"),
    ({}, "No usable image"),
  ],
)
def test_malformed_table(tmp_path, manual, table, match):
  write_table(manual, table)
  refused(tmp_path, match)


def test_table_that_is_not_text(tmp_path, manual):
  (manual / "ffhq-dataset-v2.json").write_bytes(b"{\xff\xfe\x80}")
  refused(tmp_path, "is not JSON")


def test_other_names_and_wrong_folders_are_skipped(tmp_path, manual):
  top = manual / "thumbnails128x128"
  bad = ["00000/5.png", "00005.png", "00001/00005.png", "00000/a/00005.png"]
  for name in [*bad, "00000/01005.png"]:
    write(top, name)
  make(tmp_path).download_and_prepare()
  builder = make(tmp_path)
  assert builder.info.splits["train"].num_examples == 4
  skipped = {name: why for name, why in builder.info.metadata["skipped"]}
  assert skipped == {
    **{f"{top.name}/{name}": "not NN000/NNNNN.png" for name in bad},
    f"{top.name}/00000/01005.png": "not in the folder of its thousand",
  }


def test_only_one_resolution_can_be_there(tmp_path, manual):
  write(manual / "images256x256", "00000/00000.png")
  refused(tmp_path, "found images256x256, thumbnails128x128. Leave only")


@pytest.mark.parametrize("folder_exists", [False, True])
def test_missing_folder(tmp_path, folder_exists):
  if folder_exists:
    (tmp_path / "manual" / "in-the-wild-images").mkdir(parents=True)
  refused(tmp_path, r"No folder images\* or thumbnails\* in .*images256x256")


def test_empty_folder(tmp_path):
  (tmp_path / "manual" / "images1024x1024").mkdir(parents=True)
  refused(tmp_path, "images1024x1024 is empty")


def test_folder_without_images(tmp_path):
  write(tmp_path / "manual" / "images1024x1024", "face.png")
  refused(tmp_path, "No usable image in .*images1024x1024")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/ffhq")
def test_real_faces(tmp_path):
  builder = ffhq.Ffhq(manual_dir=SHARED, data_dir=tmp_path / "data")
  builder.download_and_prepare()
  examples = list(builder.as_data_source(split="train"))
  assert len(examples) == 17
  assert {e["image"].shape for e in examples} == {(256, 256, 3)}
  assert sum(e["number"] >= 69000 for e in examples) == 5
  assert list(builder.info.metadata["skipped"]) == []
