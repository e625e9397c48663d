"""Checksums find what is missing, cut or changed."""

import pytest

from icm_jax.training import checksums


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "d").mkdir()
  (tmp_path / "d" / "a").write_bytes(b"some bytes")
  (tmp_path / "b").write_bytes(b"")
  checksums.write(tmp_path)
  return tmp_path


def flip(path):
  data = bytearray(path.read_bytes())
  data[3] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda f: (f / "b").unlink(), "b is missing"),
    (lambda f: (f / "d" / "a").write_bytes(b"some"), "d/a has 4 of 10 bytes"),
    (lambda f: flip(f / "d" / "a"), "d/a differs from its checksum"),
    (lambda f: (f / checksums.FILE).write_bytes(b"\xff"), "cannot be read"),
    (lambda f: (f / checksums.FILE).write_text("[1]"), "cannot be read"),
    (lambda f: (f / checksums.FILE).write_text('{"b": 1}'), "cannot be read"),
    (lambda f: (f / checksums.FILE).write_text('{"b": []}'), "cannot be read"),
  ],
)
def test_damage_is_described(damage, message, folder):
  checksums.verify(folder)
  damage(folder)
  with pytest.raises(ValueError, match=message):
    checksums.verify(folder)


def test_later_files_and_folders_without_checksums_are_no_damage(folder):
  (folder / "later").touch()
  checksums.verify(folder)
  (folder / checksums.FILE).unlink()
  (folder / "b").unlink()
  checksums.verify(folder)
