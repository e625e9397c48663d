"""Original files of a data set: found, checked, and only then read."""

from __future__ import annotations

import hashlib
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from icm_jax import types


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
  """Finds files in the manual directory, or downloads them if that is asked.

  Args:
    files: what is needed.
    dl_manager: of tfds; used only for downloads.
    manual_dir: the folder to look in first.
    download: whether the network may be used for files that are not there.

  Returns:
    Paths by file name; every file has its published SHA-256.

  Raises:
    InputError: files are missing and `download` is False, or one is damaged.
  """
  missing = [f for f in files if not (manual_dir / f.name).is_file()]
  if missing and not download:
    raise types.InputError(
      f"Missing in {manual_dir}: {', '.join(f.name for f in missing)}. Put "
      "these files there, or allow the download with "
      "--config.data.download=True."
    )
  paths = {f.name: manual_dir / f.name for f in files if f not in missing}
  for file in missing:
    paths[file.name] = pathlib.Path(dl_manager.download(file.url))
  for file in files:
    found = hashlib.sha256(paths[file.name].read_bytes()).hexdigest()
    if found != file.sha256:
      raise types.InputError(
        f"{paths[file.name]} is damaged: its SHA-256 is {found}, but "
        f"{file.name} has {file.sha256}. Replace it by the original file."
      )
  return paths


def png(image_HW: np.ndarray) -> io.BytesIO:
  """A uint8 image as an encoded file, which tfds stores without TensorFlow."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(image_HW).save(buffer, format="PNG")
  buffer.seek(0)
  return buffer
