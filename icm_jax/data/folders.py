"""Finds the pictures below a folder, and says what is left out, and why."""

from __future__ import annotations

import functools
import mimetypes
import os
import pathlib
from typing import NamedTuple

import PIL.Image

from icm_jax import types

# Formats that Pillow opens, but that hold no photographs: containers, and
# programs that an interpreter would have to run.
_NOT_READ = frozenset(["BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"])
# Texts and tables lie beside many pictures, and nobody takes them for one.
_BESIDE = ("text/", "application/json", "application/xml")
_OF_SYSTEMS = frozenset(["desktop.ini", "thumbs.db"])
# The table that comes with Python, which is the same on every machine.
_MIME_TYPES = mimetypes.MimeTypes()


class Found(NamedTuple):
  """What lies below a folder.

  Attributes:
    paths: pictures by their suffix, sorted; not all of them can be read.
    skipped: paths of files and folders that are left out, and the reasons.
  """

  paths: list[pathlib.Path]
  skipped: list[tuple[pathlib.Path, str]]


@functools.cache
def suffixes() -> frozenset[str]:
  """Suffixes of the pictures that this installation of Pillow reads."""
  PIL.Image.init()
  return frozenset(
    suffix
    for suffix, kind in PIL.Image.registered_extensions().items()
    if kind in PIL.Image.OPEN and kind not in _NOT_READ
  )


def find(folder: pathlib.Path) -> Found:
  """Finds all pictures below a folder by their suffixes.

  Links are followed, and each folder is read once: links that lead to a folder
  that is read anyway, or to one above it, are left out. So are, without a word,
  hidden files and folders, and texts and tables.

  Raises:
    InputError: the folder, or a folder below it, cannot be read.
  """
  found = Found([], [])
  pending, links = [folder], list[pathlib.Path]()
  seen = {_identity(parent) for parent in folder.resolve().parents}
  while pending or links:
    # Links come last, so that what they lead to is told by its own path.
    current = pending.pop() if pending else links.pop(0)
    identity = _identity(current)
    if identity in seen:
      found.skipped.append((current, "a link to a folder that is read already"))
      continue
    seen.add(identity)
    for entry in _entries(current):
      if entry.name.startswith("."):
        continue
      path = current / entry.name
      if path.is_dir():
        (links if entry.is_symlink() else pending).append(path)
      elif reason := _reason(entry):
        found.skipped.append((path, reason))
      elif path.suffix.lower() in suffixes():
        found.paths.append(path)
  found.paths.sort()
  found.skipped.sort()
  return found


def _identity(folder: pathlib.Path) -> tuple[int, int]:
  stat = folder.stat()
  return stat.st_dev, stat.st_ino


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
  """The entries of a folder, sorted by name.

  Raises:
    InputError: it cannot be read.
  """
  try:
    with os.scandir(folder) as entries:
      return sorted(entries, key=lambda entry: entry.name)
  except OSError as error:
    raise types.InputError(
      f"{folder} cannot be read ({error.strerror}). Change its permissions."
    ) from error


def _reason(entry: os.DirEntry) -> str:
  """Why a file is left out; "" if it is a picture, or beside the point."""
  suffix = pathlib.PurePath(entry.name).suffix.lower()
  known = suffix in suffixes()
  kind = _MIME_TYPES.guess_type(f"_{suffix}")[0] or ""
  if entry.name.lower() in _OF_SYSTEMS or (
    not known and kind.startswith(_BESIDE)
  ):
    return ""
  if not os.path.isfile(entry):
    return "a link to nothing" if entry.is_symlink() else "not a regular file"
  if known:
    return ""
  return f"no picture that can be read by its suffix, {suffix or 'none'}"
