"""What lies below a folder is found, or told."""

import os

import PIL.Image
import pytest

from icm_jax import types
from icm_jax.data import folders

GIVEN = "a link to a folder that is read already"


@pytest.fixture
def tree(tmp_path):
  """A function that makes empty files below a folder, and returns it."""

  def make(*names, below="top"):
    for name in names:
      path = tmp_path / below / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.touch()
    return tmp_path / below

  return make


def names(found, top):
  paths = [path.relative_to(top).as_posix() for path in found.paths]
  return paths, {p.relative_to(top).as_posix(): why for p, why in found.skipped}


def test_suffixes_are_those_that_pillow_reads(tree):
  assert {".bmp", ".jfif", ".jpe", ".jpeg", ".tga"} <= folders.suffixes()
  PIL.Image.init()
  assert (".avif" in folders.suffixes()) == ("AVIF" in PIL.Image.OPEN)
  assert not {".eps", ".mpg", ".pdf"} & folders.suffixes()
  top = tree("a.JPG", "b/c.jfif", "b/.d.png", ".e/f.png", "__MACOSX/._g.jpg")
  assert names(folders.find(top), top) == (["a.JPG", "b/c.jfif"], {})


def test_what_is_left_out_is_told(tree):
  top = tree("a.png", "b.HEIC", "c", "d.mp4", "notes.txt", "e.csv", "Thumbs.db")
  (top / "gone.png").symlink_to("nowhere.png")
  (top / "round.png").symlink_to("round.png")
  os.mkfifo(top / "pipe.png")
  reason = "no picture that can be read by its suffix, "
  assert names(folders.find(top), top) == (
    ["a.png"],
    {
      "b.HEIC": f"{reason}.heic",
      "c": f"{reason}none",
      "d.mp4": f"{reason}.mp4",
      "gone.png": "a link to nothing",
      "pipe.png": "not a regular file",
      "round.png": "a link to nothing",
    },
  )


def test_links_are_followed_and_each_folder_is_read_once(tree):
  tree("a.png", "deeper/b.png", below="elsewhere")
  top = tree("real/c.png")
  (top / "again").symlink_to(top / "real")
  (top / "file.png").symlink_to(top / "real" / "c.png")
  (top / "link").symlink_to(top.parent / "elsewhere")
  (top / "real" / "loop").symlink_to(top)
  (top / "up").symlink_to(top.parent)
  assert names(folders.find(top), top) == (
    ["file.png", "link/a.png", "link/deeper/b.png", "real/c.png"],
    {"again": GIVEN, "real/loop": GIVEN, "up": GIVEN},
  )
  # The folder itself may be a link, too.
  (top.parent / "whole").symlink_to(top)
  assert len(folders.find(top.parent / "whole").paths) == 4


def test_a_folder_that_cannot_be_read_is_refused(tree, monkeypatch):
  def refuse(folder):
    raise PermissionError(13, "Permission denied")

  top = tree("a.png")
  monkeypatch.setattr("os.scandir", refuse)
  with pytest.raises(types.InputError, match="top cannot be read.*permissions"):
    folders.find(top)
