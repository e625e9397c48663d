import collections
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data import sources
from icm_jax.data.builders import files, utkface

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "utkface"
END = "20170116174525125.jpg.chip.jpg"


def write(tmp_path: pathlib.Path, name: str, seed: int = 0) -> pathlib.Path:
  path = tmp_path / "manual" / "UTKFace" / name
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  image_HWC = rng.integers(0, 256, (8, 8, 3), np.uint8)
  PIL.Image.fromarray(image_HWC).save(path, "JPEG")
  return path


def make(tmp_path: pathlib.Path) -> utkface.UtkFace:
  return utkface.UtkFace(
    manual_dir=tmp_path / "manual", data_dir=tmp_path / "data"
  )


def prepare(tmp_path: pathlib.Path) -> tuple[list[dict], list[list[str]]]:
  """Prepares; returns examples and what was skipped, as read later."""
  make(tmp_path).download_and_prepare()
  builder = make(tmp_path)
  assert list(builder.info.splits) == ["train"]
  skip = {"image": tfds.decode.SkipDecoding()}
  examples = list(builder.as_data_source(split="train", decoders=skip))
  return examples, list(builder.info.metadata["skipped"])


def refused(tmp_path: pathlib.Path, match: str) -> None:
  """Preparing fails with one line, and leaves no file."""
  with pytest.raises(types.InputError, match=match) as error:
    make(tmp_path).download_and_prepare()
  assert "\n" not in str(error.value)
  assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


def load(tmp_path, manual):
  return sources.load(
    "utkface",
    image_size=8,
    data_dir=str(tmp_path / "data"),
    manual_dir=str(manual) if manual else "",
  )


def test_prepared_data_are_those_of_their_originals(tmp_path):
  write(tmp_path, f"1_0_0_{END}")
  first = tmp_path / "manual"
  assert load(tmp_path, first).origin == str(first)
  shutil.copytree(first, tmp_path / "copy")
  assert load(tmp_path, tmp_path / "copy").origin == str(first)
  write(tmp_path, f"2_0_0_{END}", seed=1)
  first.rename(tmp_path / "other")
  (tmp_path / "copy").rename(first)
  (first / "beside").touch()
  load(tmp_path, first)
  for manual, has in (
    (tmp_path / "other", "other has 2 files, "),
    (tmp_path / "none", "none has none of its files"),
  ):
    with pytest.raises(types.InputError, match=f"from {first}.*{has}") as error:
      load(tmp_path, manual)
    assert "\n" not in str(error.value)
  shutil.rmtree(first)  # They are no longer needed.
  for manual in (first, None):
    assert len(load(tmp_path, manual).images.image_NHWC) == 1


def test_a_folder_may_lie_in_one_of_its_name(tmp_path):
  write(tmp_path, f"UTKFace/1_0_0_{END}")
  (example,), skipped = prepare(tmp_path)
  assert example["file"] == f"UTKFace/1_0_0_{END}".encode()
  assert not skipped


@pytest.mark.parametrize(
  ("name", "age", "gender", "race", "complete"),
  [
    (f"1_0_0_{END}", 1, "male", "White", True),
    (f"26_1_1_{END}", 26, "female", "Black", True),
    (f"116_1_2_{END}", 116, "female", "Asian", True),
    (f"30_0_3_{END}", 30, "male", "Indian", True),
    (f"0_0_4_{END}", 0, "male", "Others", True),
    (f"120_0_4_{END}", 120, "male", "Others", True),
    # The original has names without a race, without a gender, and with an
    # unknown gender.
    (f"39_1_{END}", 39, "female", "", False),
    (f"53__0_{END}", 53, "", "White", False),
    (f"61_3_{END}", 61, "", "", False),
    (f"61_1_5_{END}", 61, "female", "", False),
    (f"61_1_0_{END[:17]}.jpg", 61, "female", "White", False),
    (f"61_1_0_{END[:17]}.jpg.chip (2).jpg", 61, "female", "White", False),
    ("61_1_0_.jpg.chip.jpg", 61, "female", "White", False),
    ("61_.jpg", 61, "", "", False),
  ],
)
def test_names_are_parsed_as_far_as_possible(
  tmp_path, name, age, gender, race, complete
):
  path = write(tmp_path, name)
  (example,), skipped = prepare(tmp_path)
  assert example["image"] == path.read_bytes()
  assert example["file"].decode() == f"UTKFace/{name}"
  assert example["age"] == age
  assert example["gender"].decode() == gender
  assert example["race"].decode() == race
  assert example["complete"] == complete
  assert not skipped


def test_names_without_an_age_are_skipped(tmp_path):
  write(tmp_path, f"26_1_1_{END}")
  reasons = {
    **dict.fromkeys(
      [
        f"_1_1_{END}",
        f"x_1_1_{END}",
        f"-5_1_1_{END}",
        f"2.5_1_1_{END}",
        f"\u0663_1_1_{END}",
        f"{'9' * 20}_1_1_{END}",
        "26.jpg",
        "26_1_\udcff.jpg",
      ],
      "no age at the start of its name",
    ),
    f"121_1_1_{END}": "age above 120",
    f"999_1_1_{END}": "age above 120",
    f"part1/26_1_1_{END}": "not directly in UTKFace",
  }
  for name in reasons:
    write(tmp_path, name)
  (tmp_path / "manual" / "UTKFace" / "26_1_1_readme.txt").write_text("ignored")
  write(tmp_path, f".26_1_1_{END}")
  examples, skipped = prepare(tmp_path)
  assert len(examples) == 1
  assert len(skipped) == len(reasons)
  assert dict(skipped) == {
    files.printable(f"UTKFace/{name}"): why for name, why in reasons.items()
  }


def test_damaged_images_are_kept_as_they_are(tmp_path):
  """They are named later, when pictures are decoded."""
  path = write(tmp_path, f"26_1_1_{END}")
  path.write_bytes(path.read_bytes()[:50])
  write(tmp_path, f"27_1_1_{END}").write_bytes(b"")
  examples, _ = prepare(tmp_path)
  assert [len(e["image"]) for e in examples] == [50, 0]


@pytest.mark.parametrize(
  ("names", "match"),
  [
    (None, "Missing: .*UTKFace"),
    ([], "The folder .*UTKFace is empty"),
    (["face.jpg"], "No picture in .*UTKFace has an age"),
    ([f"part1/26_1_1_{END}"], "No picture in .*UTKFace has an age"),
  ],
)
def test_nothing_to_read_says_what_to_put_where(tmp_path, names, match):
  if names is not None:
    (tmp_path / "manual" / "UTKFace").mkdir(parents=True)
  for name in names or ():
    write(tmp_path, name)
  refused(tmp_path, f"{match}.* Put here the folder UTKFace")


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("UTK-Face/a.jpg", "There is 'UTK-Face', but the file must be 'UTKFace'"),
    ("crop_part1/a.jpg", "manual holds crop_part1[.]"),
    ("a.jpg", "manual holds a.jpg[.]"),
    ("", "manual is empty"),
  ],
)
def test_what_is_there_instead_is_told(tmp_path, name, words):
  (tmp_path / "manual" / name).parent.mkdir(parents=True, exist_ok=True)
  (tmp_path / "manual").mkdir(exist_ok=True)
  if name:
    (tmp_path / "manual" / name).touch()
  refused(tmp_path, words)


def test_unreadable_folder(tmp_path, monkeypatch):
  write(tmp_path, f"26_1_1_{END}")
  scandir = os.scandir

  def refuse(path="."):
    if str(path).endswith("UTKFace"):
      raise PermissionError(13, "Permission denied", os.fspath(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  refused(tmp_path, "UTKFace cannot be read .*Change its permissions")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/utkface")
def test_real_faces(tmp_path):
  builder = utkface.UtkFace(manual_dir=SHARED, data_dir=tmp_path / "data")
  builder.download_and_prepare()
  skip = {"image": tfds.decode.SkipDecoding()}
  examples = list(builder.as_data_source(split="train", decoders=skip))
  assert len(examples) == 3000
  incomplete = [e for e in examples if not e["complete"]]
  assert sorted((e["age"], e["gender"], e["race"]) for e in incomplete) == [
    (39, b"female", b""),
    (61, b"female", b""),
    (61, b"female", b""),
  ]
  races = collections.Counter(e["race"].decode() for e in examples)
  assert set(races) == {*utkface.RACES.values(), ""}
  assert list(builder.info.metadata["skipped"]) == []
