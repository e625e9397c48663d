import io
import os
import pathlib
import zipfile

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import celeb_a

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "celeba"
FOLDER = "img_align_celeba"
NUMBERS = range(1, 7)


def name(number: int) -> str:
  return f"{number:06}.jpg"


def picture(number: int) -> bytes:
  rng = np.random.default_rng(number)
  buffer = io.BytesIO()
  image_HWC = rng.integers(0, 256, (10, 8, 3), np.uint8)
  PIL.Image.fromarray(image_HWC).save(buffer, "JPEG")
  return buffer.getvalue()


def attributes(number: int) -> list[int]:
  """Image n has the attribute n, and no other one."""
  return [1 if n == number else -1 for n in range(len(celeb_a.ATTRIBUTES))]


def write_table(path: pathlib.Path, lines: list[str], end: str = "\n") -> None:
  path.write_bytes("".join(line + end for line in lines).encode())


def attribute_lines() -> list[str]:
  """Returns a table in the original layout, with right-aligned numbers."""
  return [
    str(len(NUMBERS)),
    " ".join(celeb_a.ATTRIBUTES) + " ",
    *(f"{name(n)} {'%2d ' * 40 % tuple(attributes(n))}" for n in NUMBERS),
  ]


def landmark_lines() -> list[str]:
  return [
    str(len(NUMBERS)),
    " ".join(celeb_a.LANDMARKS),
    *(
      f"{name(n)} {' '.join(str(10 * n + k) for k in range(10))}"
      for n in NUMBERS
    ),
  ]


def write_tables(folder: pathlib.Path, end: str = "\n") -> None:
  """Images 1-3 are for training, 4 for validation, 5 and 6 for tests."""
  folder.mkdir(exist_ok=True)
  write_table(folder / "list_attr_celeba.txt", attribute_lines(), end)
  write_table(
    folder / "list_eval_partition.txt",
    [f"{name(n)} {'-000122'[n]}" for n in NUMBERS],
    end,
  )
  write_table(
    folder / "identity_CelebA.txt",
    [f"{name(n)} {2880 + n // 2}" for n in NUMBERS],
    end,
  )


def write_folder(manual: pathlib.Path, numbers=NUMBERS) -> None:
  (manual / FOLDER).mkdir(parents=True)
  for number in numbers:
    (manual / FOLDER / name(number)).write_bytes(picture(number))


def write_zip(manual: pathlib.Path, numbers=NUMBERS, **others) -> pathlib.Path:
  path = manual / f"{FOLDER}.zip"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr(f"{FOLDER}/", b"")
    # The original's members are in no order.
    for number in reversed(numbers):
      archive.writestr(f"{FOLDER}/{name(number)}", picture(number))
    for member, data in others.items():
      archive.writestr(member, data)
  return path


@pytest.fixture
def manual(tmp_path):
  """Tables, and no images yet."""
  write_tables(tmp_path / "manual")
  return tmp_path / "manual"


def make(tmp_path: pathlib.Path) -> celeb_a.CelebA:
  return celeb_a.CelebA(
    manual_dir=tmp_path / "manual", data_dir=tmp_path / "data"
  )


def prepare(tmp_path: pathlib.Path) -> tuple[dict[str, list], dict[str, str]]:
  """Prepares; returns examples by split and what was skipped, as read later."""
  make(tmp_path).download_and_prepare()
  builder = make(tmp_path)
  skip = {"image": tfds.decode.SkipDecoding()}
  examples = {
    split: list(builder.as_data_source(split=split, decoders=skip))
    for split in builder.info.splits
  }
  return examples, dict(map(tuple, builder.info.metadata["skipped"]))


def refused(tmp_path: pathlib.Path, match: str) -> None:
  """Preparing fails with one line, and leaves no file."""
  with pytest.raises(types.InputError, match=match) as error:
    make(tmp_path).download_and_prepare()
  assert "\n" not in str(error.value)
  assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_examples_are_those_of_the_files(tmp_path, manual, write, end):
  write_tables(manual, end)
  write(manual)
  examples, skipped = prepare(tmp_path)
  assert not skipped
  assert {split: len(some) for split, some in examples.items()} == {
    "train": 3,
    "validation": 1,
    "test": 2,
  }
  everything = sum(examples.values(), [])
  for number, example in zip(NUMBERS, everything, strict=True):
    assert example["image"] == picture(number)
    assert example["file"].decode() == f"{FOLDER}/{name(number)}"
    assert example["person"].decode() == str(2880 + number // 2)
    has = [a for a in celeb_a.ATTRIBUTES if example[a]]
    assert has == [celeb_a.ATTRIBUTES[number]]
    assert {example[mark] for mark in celeb_a.LANDMARKS} == {-1}


def test_landmarks(tmp_path, manual):
  write_folder(manual)
  write_table(manual / "list_landmarks_align_celeba.txt", landmark_lines())
  examples, _ = prepare(tmp_path)
  (example,) = examples["validation"]
  assert [example[m] for m in celeb_a.LANDMARKS] == list(range(40, 50))
  assert example["lefteye_x"] == 40
  assert example["rightmouth_y"] == 49


def test_zip_comes_before_the_folder(tmp_path, manual):
  write_folder(manual, [1])
  write_zip(manual, [2, 4])
  examples, _ = prepare(tmp_path)
  assert {split: len(some) for split, some in examples.items()} == {
    "train": 1,
    "validation": 1,
  }


def test_images_without_a_row_are_skipped(tmp_path, manual):
  write_folder(manual)
  for number, table in enumerate(
    ["list_eval_partition.txt", "identity_CelebA.txt"], start=1
  ):
    lines = (manual / table).read_text().splitlines()
    write_table(manual / table, [x for x in lines if name(number) not in x])
  count, *lines = attribute_lines()
  del lines[3]
  write_table(manual / "list_attr_celeba.txt", ["5", *lines])
  count, *lines = landmark_lines()
  del lines[5]
  write_table(manual / "list_landmarks_align_celeba.txt", ["5", *lines])
  examples, skipped = prepare(tmp_path)
  assert list(examples) == ["validation", "test"]
  assert skipped == {
    f"{FOLDER}/000001.jpg": "no row in list_eval_partition.txt",
    f"{FOLDER}/000002.jpg": "no row in identity_CelebA.txt",
    f"{FOLDER}/000003.jpg": "no row in list_attr_celeba.txt",
    f"{FOLDER}/000005.jpg": "no row in list_landmarks_align_celeba.txt",
  }


def test_other_files_are_skipped(tmp_path, manual):
  bad = ["1.jpg", "0000001.jpg", "000001.png", "a/000001.jpg"]
  bad = [f"{FOLDER}/{file}" for file in bad]
  write_folder(manual)
  for file in bad:
    (manual / file).parent.mkdir(exist_ok=True)
    (manual / file).write_bytes(picture(0))
  _, skipped = prepare(tmp_path)
  assert skipped == dict.fromkeys(bad, f"not {FOLDER}/NNNNNN.jpg")


def test_other_members_are_skipped(tmp_path, manual):
  bad = ["000001.jpg", "__MACOSX/000001.jpg", f"{FOLDER}/000001.jpg\n"]
  write_zip(manual, **dict.fromkeys(bad, b"x"))
  examples, skipped = prepare(tmp_path)
  assert len(examples["train"]) == 3
  assert skipped == dict.fromkeys(bad, f"not {FOLDER}/NNNNNN.jpg")


def test_damaged_images_are_kept_as_they_are(tmp_path, manual):
  """They are named later, when pictures are decoded."""
  write_folder(manual)
  (manual / FOLDER / name(1)).write_bytes(b"")
  (manual / FOLDER / name(2)).write_bytes(picture(2)[:50])
  examples, skipped = prepare(tmp_path)
  assert [len(e["image"]) for e in examples["train"][:2]] == [0, 50]
  assert not skipped


def spoil(path: pathlib.Path, number: int) -> None:
  """Changes one stored member, whose checksum then is wrong."""
  whole, data = path.read_bytes(), picture(number)
  assert whole.count(data) == 1
  path.write_bytes(whole.replace(data, bytes(len(data))))


def test_member_that_cannot_be_unpacked_is_skipped(tmp_path, manual):
  spoil(write_zip(manual), 2)
  examples, skipped = prepare(tmp_path)
  assert [e["image"] for e in examples["train"]] == [picture(1), picture(3)]
  assert skipped == {f"{FOLDER}/000002.jpg": "cannot be unpacked"}


def test_zip_with_a_split_that_cannot_be_unpacked(tmp_path, manual):
  spoil(write_zip(manual), 4)
  refused(tmp_path, "None of 1 images of a split can be unpacked")


@pytest.mark.parametrize("member", ["../evil.jpg", "/evil.jpg", "..\\evil.jpg"])
def test_zip_whose_member_leaves_its_folder(tmp_path, manual, member):
  write_zip(manual, **{member: b"x"})
  refused(tmp_path, "leaves the zip's folder")


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_zip_that_is_cut_short(tmp_path, manual, keep):
  path = write_zip(manual)
  path.write_bytes(path.read_bytes()[:keep])
  refused(tmp_path, "img_align_celeba.zip cannot be opened")


def test_zip_without_images(tmp_path, manual):
  write_zip(manual, [])
  refused(tmp_path, "No image NNNNNN.jpg in .*zip has a row in every table")


def test_images_without_rows(tmp_path, manual):
  write_folder(manual, [7, 8])
  refused(tmp_path, "No image NNNNNN.jpg in .*celeba has a row in every table")


@pytest.mark.parametrize("folder_exists", [False, True])
def test_no_images(tmp_path, manual, folder_exists):
  if folder_exists:
    (manual / FOLDER).mkdir()
  refused(tmp_path, "Put here img_align_celeba.zip, still zipped")


@pytest.mark.parametrize(
  "table",
  ["list_attr_celeba.txt", "list_eval_partition.txt"],
)
def test_missing_table(tmp_path, manual, table):
  write_folder(manual)
  (manual / table).unlink()
  refused(tmp_path, f"Missing: .*{table}. .* Put here .*{table}")


def test_without_the_table_of_people_everybody_is_another(tmp_path, manual):
  write_folder(manual)
  (manual / "identity_CelebA.txt").unlink()
  examples, skipped = prepare(tmp_path)
  assert not skipped
  people = [e["person"] for some in examples.values() for e in some]
  assert sorted(people) == [b"unknown %06d" % n for n in NUMBERS]


def as_csv(path: pathlib.Path, header: str, first: int) -> None:
  """Writes a table as Kaggle hands it out."""
  rows = [",".join(r.split()) for r in path.read_text().splitlines()[first:]]
  path.with_suffix(".csv").write_text("\n".join([header, *rows, ""]))
  path.unlink()


def test_what_kaggle_hands_out_is_read(tmp_path, manual):
  write_folder(manual / FOLDER)
  names = ",".join(["image_id", *celeb_a.ATTRIBUTES])
  as_csv(manual / "list_attr_celeba.txt", names, 2)
  as_csv(manual / "list_eval_partition.txt", "image_id,partition", 0)
  examples, skipped = prepare(tmp_path)
  assert not skipped
  assert {split: len(some) for split, some in examples.items()} == {
    "train": 3,
    "validation": 1,
    "test": 2,
  }
  assert examples["train"][0]["file"] == f"{FOLDER}/{name(1)}".encode()
  assert examples["train"][0][celeb_a.ATTRIBUTES[1]]


@pytest.mark.parametrize(
  ("old", "new", "match"),
  [
    ("partition", "part", "csv, line 1: expected partition, found 'part'"),
    (",2", ",3", "csv, line 6: expected 0 or 1 or 2, found '3'"),
  ],
)
def test_malformed_csv(tmp_path, manual, old, new, match):
  write_folder(manual)
  as_csv(manual / "list_eval_partition.txt", "image_id,partition", 0)
  path = manual / "list_eval_partition.csv"
  path.write_text(path.read_text().replace(old, new))
  refused(tmp_path, match)


def test_a_byte_order_mark_is_no_number(tmp_path, manual):
  write_folder(manual)
  for path in manual.glob("*.txt"):
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
  assert len(prepare(tmp_path)[0]["train"]) == 3


def test_missing_folder(tmp_path):
  refused(tmp_path, "Missing: .*list_attr_celeba.txt. .* Put here")


def test_unreadable_folder(tmp_path, manual, monkeypatch):
  write_folder(manual)
  scandir = os.scandir

  def refuse(path="."):
    if str(path).endswith(FOLDER):
      raise PermissionError(13, "Permission denied", os.fspath(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  refused(tmp_path, f"{FOLDER} cannot be read .*Change its permissions")


def replace_line(number: int, old: str, new: str):
  """A change of a table."""

  def change(lines):
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new, 1)

  return change


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lambda lines: lines.pop(), "promises 6 rows, but 5 follow"),
    (
      lambda lines: lines.append(lines[2].replace("01.jpg", "09.jpg")),
      "promises 6 rows, but 7 follow",
    ),
    (lambda lines: lines.clear(), "line 1: expected the number of rows"),
    (
      lambda lines: lines.pop(0),
      "line 1: expected the number of rows, found '5_o_Clock_Shadow",
    ),
    (
      lambda lines: lines.__delitem__(slice(1, None)),
      "line 2: expected 5_o_Clock_Shadow, found nothing",
    ),
    (
      replace_line(1, "Bald", "Hair"),
      "line 2: expected Bald, found 'Hair'",
    ),
    (
      replace_line(1, "Young", ""),
      "line 2: expected Young, found nothing",
    ),
    (
      replace_line(1, "Young", "Young Old"),
      "line 2: expected no more names, found 'Old'",
    ),
    (
      replace_line(1, "Bald Bangs", "Bangs Bald"),
      "line 2: expected Bald, found 'Bangs'",
    ),
    (
      replace_line(3, "-1 ", " "),
      "line 4: expected 40 values, found 39",
    ),
    (
      replace_line(3, "-1 ", "-1 -1 "),
      "line 4: expected 40 values, found 41",
    ),
    (replace_line(4, "-1", "0"), "line 5: expected -1 or 1, found '0'"),
    (replace_line(4, "-1", "x"), "line 5: expected -1 or 1, found 'x'"),
    (
      replace_line(5, "000004", "4"),
      "line 6: expected NNNNNN.jpg, found '4.jpg'",
    ),
    (
      replace_line(5, "000004", "000003"),
      "line 6: expected a new image, found 000003.jpg again",
    ),
    (
      lambda lines: lines.__setitem__(4, ""),
      "line 5: expected NNNNNN.jpg, found ''",
    ),
  ],
)
def test_malformed_attributes(tmp_path, manual, change, match):
  write_folder(manual)
  lines = attribute_lines()
  change(lines)
  write_table(manual / "list_attr_celeba.txt", lines)
  refused(tmp_path, f"list_attr_celeba.txt.* {match}")


@pytest.mark.parametrize(
  ("table", "old", "new", "match"),
  [
    ("list_eval_partition.txt", " 1", " 3", "expected 0 or 1 or 2, found '3'"),
    ("list_eval_partition.txt", " 1", "", "expected 1 values, found 0"),
    ("identity_CelebA.txt", "2882", "Ann", "expected an integer, found 'Ann'"),
    ("identity_CelebA.txt", "2882", "9" * 5000, "expected an integer"),
    ("identity_CelebA.txt", "2882", "2882 1", "expected 1 values, found 2"),
  ],
)
def test_malformed_tables(tmp_path, manual, table, old, new, match):
  write_folder(manual)
  lines = (manual / table).read_text().splitlines()
  lines[3] = lines[3].replace(old, new)
  write_table(manual / table, lines)
  refused(tmp_path, f"{table}, line 4: {match}")


def test_malformed_landmarks(tmp_path, manual):
  write_folder(manual)
  lines = landmark_lines()
  lines[1] = lines[1].replace("nose_x", "nose_z")
  write_table(manual / "list_landmarks_align_celeba.txt", lines)
  refused(tmp_path, "line 2: expected nose_x, found 'nose_z'")


def test_table_that_is_not_text(tmp_path, manual):
  write_folder(manual)
  (manual / "identity_CelebA.txt").write_bytes(b"\xff\xfe\x00\x80")
  refused(tmp_path, "identity_CelebA.txt is not a text file")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/celeba")
def test_real_faces(tmp_path):
  builder = celeb_a.CelebA(manual_dir=SHARED, data_dir=tmp_path / "data")
  builder.download_and_prepare()
  people = {}
  positive = dict.fromkeys(celeb_a.ATTRIBUTES, 0)
  skip = {"image": tfds.decode.SkipDecoding()}
  for split in builder.info.splits:
    examples = list(builder.as_data_source(split=split, decoders=skip))
    people[split] = len({e["person"] for e in examples})
    for attribute in positive:
      positive[attribute] += sum(bool(e[attribute]) for e in examples)
  sizes = {s: i.num_examples for s, i in builder.info.splits.items()}
  assert sizes == {"train": 2400, "validation": 400, "test": 400}
  assert people == {"train": 480, "validation": 80, "test": 80}
  assert (positive["Eyeglasses"], positive["Wearing_Hat"]) == (215, 196)
  assert (positive["Bald"], positive["Smiling"]) == (81, 1549)
  assert list(builder.info.metadata["skipped"]) == []
