import os
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import files, lfw

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "lfw"
FOLDER = "lfw-deepfunneled"
NAMES = (
  "Abdel_Aziz_Al-Hakim/Abdel_Aziz_Al-Hakim_0001.jpg",
  "Ann_Lee/Ann_Lee_0001.jpg",
  "Ann_Lee/Ann_Lee_0010.jpg",
  "Steve-O/Steve-O_0001.jpg",
)
# Two sets of two pairs of one person, and two of two people.
PAIRS = (
  "2\t2",
  "Ann_Lee\t1\t10",
  "Bo\t2\t3",
  "Ann_Lee\t1\tSteve-O\t1",
  "Ann_Lee\t10\tSteve-O\t1",
  "Bo\t1\t2",
  "Bo\t1\t3",
  "Bo\t3\tCy\t12",
  "Cy\t1\tBo\t1",
)


def write(path: pathlib.Path, seed: int = 0) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  image_HWC = rng.integers(0, 256, (8, 8, 3), np.uint8)
  PIL.Image.fromarray(image_HWC).save(path, "JPEG")
  return path


@pytest.fixture
def manual(tmp_path):
  for seed, name in enumerate(NAMES):
    write(tmp_path / "manual" / FOLDER / name, seed)
  (tmp_path / "manual" / "lfw-names.txt").write_text("Ann_Lee\t2\n")
  return tmp_path / "manual"


def make(tmp_path: pathlib.Path) -> lfw.Lfw:
  return lfw.Lfw(manual_dir=tmp_path / "manual", data_dir=tmp_path / "data")


def prepare(tmp_path: pathlib.Path) -> tuple[list[dict], dict]:
  """Prepares; returns examples and metadata, as read later."""
  make(tmp_path).download_and_prepare()
  builder = make(tmp_path)
  assert list(builder.info.splits) == ["train"]
  skip = {"image": tfds.decode.SkipDecoding()}
  examples = list(builder.as_data_source(split="train", decoders=skip))
  return examples, builder.info.metadata


def refused(tmp_path: pathlib.Path, match: str) -> None:
  """Preparing fails with one line, and leaves no file."""
  with pytest.raises(types.InputError, match=match) as error:
    make(tmp_path).download_and_prepare()
  assert "\n" not in str(error.value)
  assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


def test_examples_are_those_of_the_files(tmp_path, manual):
  examples, metadata = prepare(tmp_path)
  for name, example in zip(NAMES, examples, strict=True):
    assert example["file"].decode() == f"{FOLDER}/{name}"
    assert example["person"].decode() == name.split("/")[0]
    assert example["image"] == (manual / FOLDER / name).read_bytes()
  assert [e["number"] for e in examples] == [1, 1, 10, 1]
  assert metadata == {"skipped": []}


def test_other_names_are_skipped(tmp_path, manual):
  bad = [
    "Ann_Lee/Ann_Lee_1.jpg",
    "Ann_Lee/Ann_Lee_00001.jpg",
    "Ann_Lee/Ann_Lee_0001.png",
    "Ann_Lee/Ann_0001.jpg",
    "Ann_Lee/Ann_Lee.jpg",
    "Ann_Lee_0003.jpg",
    "deeper/Ann_Lee/Ann_Lee_0003.jpg",
    "\udcff/\udcff_0001.jpg",
  ]
  for name in bad:
    write(manual / FOLDER / name)
  (manual / FOLDER / "readme.txt").write_text("ignored")
  write(manual / FOLDER / ".hidden" / ".hidden_0001.jpg")
  examples, metadata = prepare(tmp_path)
  assert len(examples) == len(NAMES)
  assert dict(metadata["skipped"]) == dict.fromkeys(
    [files.printable(f"{FOLDER}/{name}") for name in bad],
    "not <Name>/<Name>_NNNN.jpg",
  )


def test_damaged_images_are_kept_as_they_are(tmp_path, manual):
  """They are named later, when pictures are decoded."""
  path = manual / FOLDER / NAMES[0]
  path.write_bytes(path.read_bytes()[:50])
  (manual / FOLDER / NAMES[1]).write_bytes(b"")
  examples, _ = prepare(tmp_path)
  assert [len(e["image"]) for e in examples[:2]] == [50, 0]


def test_a_link_to_nothing_is_skipped(tmp_path, manual):
  path = manual / FOLDER / NAMES[3]
  path.unlink()
  path.symlink_to(tmp_path / "nowhere")
  examples, metadata = prepare(tmp_path)
  assert len(examples) == 3
  assert metadata["skipped"] == [[f"{FOLDER}/{NAMES[3]}", "a link to nothing"]]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pairs_are_kept(tmp_path, manual, end):
  (manual / "pairs.txt").write_bytes("".join(p + end for p in PAIRS).encode())
  _, metadata = prepare(tmp_path)
  assert metadata["pairs"] == [
    ["Ann_Lee", 1, "Ann_Lee", 10],
    ["Bo", 2, "Bo", 3],
    ["Ann_Lee", 1, "Steve-O", 1],
    ["Ann_Lee", 10, "Steve-O", 1],
    ["Bo", 1, "Bo", 2],
    ["Bo", 1, "Bo", 3],
    ["Bo", 3, "Cy", 12],
    ["Cy", 1, "Bo", 1],
  ]


@pytest.mark.parametrize(
  ("line", "text", "match"),
  [
    (1, "", "line 1: expected the numbers of sets and of pairs"),
    (1, "1100", "line 1: expected the numbers of sets and of pairs"),
    (1, "0\t2", "line 1: expected the numbers of sets and of pairs"),
    (1, "2\tx", "line 1: expected the numbers of sets and of pairs"),
    (1, "2\t3", "line 1 promises 2 sets .* 12 lines, but 8 follow"),
    (1, "999999999\t999999999", "line 1 promises .* but 8 follow"),
    (2, "Ann_Lee\t1", "line 2: expected a name and two numbers, found 'Ann_L"),
    (3, "Bo\t1\tCy\t1", "line 3: expected a name and two numbers"),
    (3, "Bo\tx\t1", "line 3: expected a name and two numbers"),
    (3, "Bo\t0\t1", "line 3: expected a name and two numbers"),
    (3, "", "line 3: expected a name and two numbers, found ''"),
    (4, "Bo\t1\t2", "line 4: expected two names, a number after each"),
    (4, "Bo\t1\tBo\t2", "line 4: expected two names, a number after each"),
    (5, "Bo\tCy\t1\t2", "line 5: expected two names, a number after each"),
    (8, "Bo\t1\tCy\t-2", "line 8: expected two names, a number after each"),
  ],
)
def test_malformed_pairs(tmp_path, manual, line, text, match):
  lines = list(PAIRS)
  lines[line - 1] = text
  (manual / "pairs.txt").write_text("\n".join(lines))
  refused(tmp_path, f"pairs.txt.* {match}")


@pytest.mark.parametrize(
  ("pairs", "follow"), [(PAIRS[:-1], 7), ((*PAIRS, PAIRS[-1]), 9)]
)
def test_row_of_pairs_too_few_or_too_many(tmp_path, manual, pairs, follow):
  (manual / "pairs.txt").write_text("\n".join(pairs))
  refused(tmp_path, f"pairs.txt: line 1 promises .* 8 lines, but {follow}")


def test_empty_pairs(tmp_path, manual):
  (manual / "pairs.txt").write_text("")
  refused(tmp_path, "pairs.txt, line 1: expected .*, found ''. Replace it")


def test_pairs_that_are_not_text(tmp_path, manual):
  (manual / "pairs.txt").write_bytes(b"\xff\xfe\x00\x80")
  refused(tmp_path, "pairs.txt is not a text file")


@pytest.mark.parametrize(
  ("inside", "match"),
  [
    (None, "Missing: .*lfw-deepfunneled"),
    ((), "lfw-deepfunneled is empty"),
    (("Ann_Lee",), "No picture in .*lfw-deepfunneled is named"),
  ],
)
def test_nothing_to_read_says_what_to_put_where(tmp_path, inside, match):
  if inside is not None:
    (tmp_path / "manual" / FOLDER).mkdir(parents=True)
  for folder in inside or ():
    (tmp_path / "manual" / FOLDER / folder).mkdir()
  refused(tmp_path, f"{match}.* Put here the folder lfw-deepfunneled")


def test_unreadable_folder(tmp_path, manual, monkeypatch):
  scandir = os.scandir

  def refuse(path="."):
    if str(path).endswith("Ann_Lee"):
      raise PermissionError(13, "Permission denied", os.fspath(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  refused(tmp_path, "Ann_Lee cannot be read .*Change its permissions")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/lfw")
def test_real_faces(tmp_path):
  builder = lfw.Lfw(manual_dir=SHARED, data_dir=tmp_path / "data")
  builder.download_and_prepare()
  skip = {"image": tfds.decode.SkipDecoding()}
  examples = list(builder.as_data_source(split="train", decoders=skip))
  people = [e["person"].decode() for e in examples]
  listed = (SHARED / "lfw-names.txt").read_text().split()
  assert len(examples) == 1500
  assert {p: people.count(p) for p in people} == dict(
    zip(listed[::2], map(int, listed[1::2]), strict=True)
  )
  assert list(builder.info.metadata["skipped"]) == []
