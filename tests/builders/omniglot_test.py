import hashlib
import io
import pathlib
import zipfile

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import files, omniglot

CHECK = files.check
SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "omniglot"


@pytest.fixture(autouse=True)
def made_up_zips(monkeypatch):
  """Accepts made-up zips, whose checksums differ from the published ones."""
  monkeypatch.setattr(files, "check", lambda path, sha256: None)


def drawing(seed: int) -> bytes:
  """A PNG of one bit a pixel, as Omniglot's are."""
  ink = np.random.default_rng(seed).integers(0, 2, (12, 12)) > 0
  buffer = io.BytesIO()
  PIL.Image.fromarray(ink).save(buffer, "PNG")
  return buffer.getvalue()


def write_zip(
  folder: pathlib.Path, stem: str, members: dict[str, bytes]
) -> pathlib.Path:
  folder.mkdir(exist_ok=True)
  path = folder / f"{stem}.zip"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr(f"{stem}/", b"")
    for name, data in members.items():
      archive.writestr(name, data)
  return path


def characters(stem: str, alphabet: str, count: int = 2) -> dict[str, bytes]:
  """Members of `count` characters, drawn by two people each."""
  return {
    f"{stem}/{alphabet}/character{c:02}/{100 + c:04}_{drawer:02}.png": drawing(
      10 * c + drawer
    )
    for c in range(1, count + 1)
    for drawer in (1, 2)
  }


def make(tmp_path: pathlib.Path, folder: pathlib.Path) -> omniglot.Omniglot:
  return omniglot.Omniglot(manual_dir=folder, data_dir=tmp_path / "data")


def read(builder: omniglot.Omniglot, split: str) -> list[dict]:
  return list(
    builder.as_data_source(
      split=split, decoders={"image": tfds.decode.SkipDecoding()}
    )
  )


def refused(tmp_path: pathlib.Path, folder: pathlib.Path, match: str) -> None:
  """Preparing fails with one line, and leaves no file."""
  with pytest.raises(types.InputError, match=match) as error:
    make(tmp_path, folder).download_and_prepare()
  assert "\n" not in str(error.value)
  assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


@pytest.fixture
def manual(tmp_path):
  return tmp_path / "manual"


def test_every_zip_is_a_split_of_unchanged_files(tmp_path, manual):
  background = characters("images_background", "Tifinagh")
  evaluation = characters("images_evaluation", "Ge_ez", 1)
  write_zip(manual, "images_background", background)
  write_zip(manual, "images_evaluation", evaluation)
  builder = make(tmp_path, manual)
  builder.download_and_prepare()
  assert sorted(builder.info.splits) == ["background", "evaluation"]
  examples = read(builder, "background")
  assert {e["file"].decode(): e["image"] for e in examples} == background
  last = examples[-1]
  assert last["alphabet"] == b"Tifinagh"
  assert last["character"] == b"Tifinagh/character02"
  assert last["person"] == b"02"
  assert last["number"] == 102
  assert len(read(builder, "evaluation")) == 2
  assert list(builder.info.metadata["skipped"]) == []


def test_ink_of_one_bit_is_decoded(tmp_path, manual):
  members = characters("images_background", "Latin", 1)
  write_zip(manual, "images_background", members)
  builder = make(tmp_path, manual)
  builder.download_and_prepare()
  decoded = builder.as_data_source(split="background")[0]["image"]
  data = next(iter(members.values()))
  # White is 1 by Pillow, and 255 by OpenCV where that is installed.
  np.testing.assert_array_equal(
    decoded[..., 0] > 0, np.asarray(PIL.Image.open(io.BytesIO(data)))
  )


def test_other_members_are_skipped_and_named(tmp_path, manual):
  stem = "images_background"
  good = characters(stem, "Latin", 1)
  bad = [
    "__MACOSX/Latin/character01/0101_01.png",
    f"{stem}/Latin/.DS_Store",
    f"{stem}/Latin/character01/0101.png",
    f"{stem}/Latin/characterX/0101_01.png",
    f"{stem}/Latin/character01/99999999999_01.png",
    f"{stem}/character01/0101_01.png",
    f"{stem}/Latin/character01/0101_01.png\n",
  ]
  write_zip(manual, stem, good | dict.fromkeys(bad, b"x"))
  # A zip without images is no split.
  write_zip(manual, "images_evaluation", {"other/name.txt": b"x"})
  builder = make(tmp_path, manual)
  builder.download_and_prepare()
  assert list(builder.info.splits) == ["background"]
  for each in (builder, make(tmp_path, manual)):
    skipped = each.info.metadata["skipped"]
    assert sorted(name for name, _ in skipped) == sorted(
      [*bad, "other/name.txt"]
    )
    assert len({reason for _, reason in skipped}) == 1
  assert len(read(make(tmp_path, manual), "background")) == 2


def spoil(path: pathlib.Path, data: bytes) -> None:
  """Changes one stored member, whose checksum then is wrong."""
  whole = path.read_bytes()
  assert whole.count(data) == 1
  path.write_bytes(whole.replace(data, bytes(len(data))))


def test_member_that_cannot_be_unpacked_is_skipped(tmp_path, manual):
  members = characters("images_evaluation", "Latin", 1)
  path = write_zip(manual, "images_evaluation", members)
  (first, data), *_ = members.items()
  spoil(path, data)
  builder = make(tmp_path, manual)
  builder.download_and_prepare()
  assert [e["number"] for e in read(builder, "evaluation")] == [101]
  assert [list(s) for s in builder.info.metadata["skipped"]] == [
    [first, "cannot be unpacked"]
  ]


def test_zip_with_nothing_that_can_be_unpacked(tmp_path, manual):
  members = characters("images_evaluation", "Latin", 1)
  path = write_zip(manual, "images_evaluation", members)
  for data in members.values():
    spoil(path, data)
  refused(tmp_path, manual, "No image of .* can be unpacked")


@pytest.mark.parametrize("split", omniglot.ZIPS)
def test_zips_have_a_checksum(split, tmp_path, manual, monkeypatch):
  monkeypatch.setattr(files, "check", CHECK)
  stem = omniglot.ZIPS[split].removesuffix(".zip")
  path = write_zip(manual, stem, characters(stem, "Latin"))
  refused(tmp_path, manual, "SHA-256 is .* Replace it by the original")
  sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
  monkeypatch.setitem(omniglot.SHA256, path.name, sha256)
  builder = make(tmp_path, manual)
  builder.download_and_prepare()
  assert builder.info.splits[split].num_examples == 4


@pytest.mark.parametrize(
  "name",
  ["../evil.png", "images_background/../../evil.png", "/evil.png", "..\\e.png"],
)
def test_member_that_leaves_the_folder_is_refused(tmp_path, manual, name):
  stem = "images_background"
  write_zip(manual, stem, characters(stem, "Latin", 1) | {name: b"x"})
  refused(tmp_path, manual, "leaves the zip's folder")


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04"])
def test_file_that_is_not_a_zip(tmp_path, manual, data):
  manual.mkdir()
  (manual / "images_background.zip").write_bytes(data)
  refused(tmp_path, manual, "cannot be opened")


def test_zip_that_is_cut_short(tmp_path, manual):
  stem = "images_background"
  path = write_zip(manual, stem, characters(stem, "Latin"))
  path.write_bytes(path.read_bytes()[:-100])
  refused(tmp_path, manual, "cannot be opened")


@pytest.mark.parametrize("folder_exists", [False, True])
def test_missing_zips_are_named(tmp_path, manual, folder_exists):
  if folder_exists:
    manual.mkdir()
  refused(tmp_path, manual, ".*".join(omniglot.ZIPS.values()))


def test_zip_without_images(tmp_path, manual):
  write_zip(manual, "images_background", {})
  refused(tmp_path, manual, "No member of .*images_background.zip")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/omniglot")
def test_real_zips(tmp_path, monkeypatch):
  monkeypatch.setattr(files, "check", CHECK)
  builder = make(tmp_path, SHARED)
  builder.download_and_prepare()
  sizes = {s: i.num_examples for s, i in builder.info.splits.items()}
  assert sizes == {"small1": 2720, "small2": 3120}
  assert list(builder.info.metadata["skipped"]) == []
  for split, alphabets in (("small1", 5), ("small2", 5)):
    examples = read(builder, split)
    assert len({e["alphabet"] for e in examples}) == alphabets
    assert len({e["character"] for e in examples}) == sizes[split] // 20
    assert len({e["person"] for e in examples}) == 20
