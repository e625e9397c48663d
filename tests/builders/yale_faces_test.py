import io
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import files, yale_faces

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "yale"


def grey(seed: int) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (9, 12), np.uint8)


def gif(seed: int) -> bytes:
  buffer = io.BytesIO()
  PIL.Image.fromarray(grey(seed)).save(buffer, "GIF")
  return buffer.getvalue()


def write(manual: pathlib.Path, *names: str) -> None:
  folder = manual / "yalefaces"
  folder.mkdir(parents=True, exist_ok=True)
  for seed, name in enumerate(names):
    (folder / name).write_bytes(gif(seed))


def make(tmp_path: pathlib.Path) -> yale_faces.YaleFaces:
  return yale_faces.YaleFaces(
    manual_dir=tmp_path / "manual", data_dir=tmp_path / "data"
  )


def read(builder: yale_faces.YaleFaces) -> list[dict]:
  return list(
    builder.as_data_source(
      split="train", decoders={"image": tfds.decode.SkipDecoding()}
    )
  )


def refused(tmp_path: pathlib.Path, match: str) -> None:
  """Preparing fails with one line, and leaves no file."""
  with pytest.raises(types.InputError, match=match) as error:
    make(tmp_path).download_and_prepare()
  assert "\n" not in str(error.value)
  assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


def test_faces_with_and_without_a_suffix(tmp_path):
  manual = tmp_path / "manual"
  names = [f"subject01.{condition}" for condition in yale_faces.CONDITIONS]
  names.append("subject15.wink.gif")
  write(manual, *names)
  (manual / "yalefaces" / "Readme.txt").write_bytes(b"\x93Eigenfaces\x94")
  (manual / "yalefaces" / ".DS_Store").write_bytes(b"x")
  builder = make(tmp_path)
  builder.download_and_prepare()
  examples = read(builder)
  assert [e["file"].decode() for e in examples] == [
    f"yalefaces/{name}" for name in names
  ]
  first, last = examples[0], examples[-1]
  assert (first["person"], first["condition"]) == (b"subject01", b"centerlight")
  assert (last["person"], last["condition"]) == (b"subject15", b"wink")
  assert list(builder.info.metadata["skipped"]) == []


def test_gif_becomes_png_of_its_grey_values(tmp_path):
  write(tmp_path / "manual", "subject01.happy", "subject01.sad")
  builder = make(tmp_path)
  builder.download_and_prepare()
  assert all(e["image"].startswith(b"\x89PNG") for e in read(builder))
  for seed, example in enumerate(builder.as_data_source(split="train")):
    assert example["image"].shape == (9, 12, 1)
    np.testing.assert_array_equal(example["image"][..., 0], grey(seed))


def test_damaged_faces_are_skipped_and_named(tmp_path):
  manual = tmp_path / "manual"
  write(manual, "subject01.happy")
  damaged = {
    "subject01.sad": gif(1)[:-30],
    "subject01.sleepy": b"",
    "subject01.wink": b"no picture",
  }
  for name, data in damaged.items():
    (manual / "yalefaces" / name).write_bytes(data)
  make(tmp_path).download_and_prepare()
  builder = make(tmp_path)
  assert [e["condition"] for e in read(builder)] == [b"happy"]
  assert [tuple(pair) for pair in builder.info.metadata["skipped"]] == [
    ("yalefaces/subject01.sad", "truncated or damaged"),
    ("yalefaces/subject01.sleepy", "not a picture"),
    ("yalefaces/subject01.wink", "not a picture"),
  ]


def test_no_face_can_be_read(tmp_path):
  write(tmp_path / "manual")
  (tmp_path / "manual" / "yalefaces" / "subject01.sad").write_bytes(b"x")
  refused(tmp_path, "No picture in .* can be read")


def test_other_names_are_skipped_and_named(tmp_path):
  manual = tmp_path / "manual"
  bad = [
    "subject01.angry",
    "subject01.gif",
    "subject1.sad",
    "subject01.sad.png",
    "face\udcff.sad",  # A name that is no text, as it comes from a disk.
  ]
  write(manual, "subject02.sad", *bad)
  (manual / "yalefaces" / "subject03.sad").mkdir()
  make(tmp_path).download_and_prepare()
  builder = make(tmp_path)
  assert [e["file"] for e in read(builder)] == [b"yalefaces/subject02.sad"]
  skipped = builder.info.metadata["skipped"]
  assert sorted(name for name, _ in skipped) == sorted(
    files.printable(f"yalefaces/{name}") for name in [*bad, "subject03.sad"]
  )
  assert len({reason for _, reason in skipped}) == 1


def test_missing_folder(tmp_path):
  refused(tmp_path, "Missing: .*yalefaces.* subject01.glasses")


def test_empty_folder(tmp_path):
  write(tmp_path / "manual")
  refused(tmp_path, "yalefaces is empty")


def test_folder_without_faces(tmp_path):
  write(tmp_path / "manual", "Readme.txt", "photo.gif")
  refused(tmp_path, "No file in .*yalefaces is a face")


def test_file_in_the_place_of_the_folder(tmp_path):
  (tmp_path / "manual").mkdir()
  (tmp_path / "manual" / "yalefaces").write_bytes(b"x")
  refused(tmp_path, "No file in .*yalefaces is a face")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/yale")
def test_real_faces(tmp_path):
  builder = yale_faces.YaleFaces(manual_dir=SHARED, data_dir=tmp_path / "data")
  builder.download_and_prepare()
  examples = read(builder)
  assert len(examples) == 165
  assert len({e["person"] for e in examples}) == 15
  assert len({e["condition"] for e in examples}) == 11
  assert list(builder.info.metadata["skipped"]) == []
  for example in builder.as_data_source(split="train"):
    assert example["image"].shape == (243, 320, 1)
    with PIL.Image.open(SHARED / example["file"].decode()) as image:
      np.testing.assert_array_equal(example["image"][..., 0], image)
