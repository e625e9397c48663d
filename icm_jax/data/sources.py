"""Where images come from: data sets by name, as uint8 arrays."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import shutil
import tempfile
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data.builders import mnist


class Images(NamedTuple):
  """Labelled images of one split.

  Attributes:
    image_NHWC: uint8.
    label_N: int32 in [0, K).
  """

  image_NHWC: np.ndarray
  label_N: np.ndarray


SOURCES = ("mnist_5k", "mnist")


def load(
  name: str,
  *,
  data_dir: str = "",
  manual_dir: str = "",
  download: bool = False,
) -> dict[str, Images]:
  """Loads a data set; the first call prepares it, which takes seconds.

  Prepared data is an array_record data set under `data_dir`, with its images
  decoded to one uint8 file a split beside it; both are written whole or not at
  all.

  Args:
    name: one of `SOURCES`.
    data_dir: where prepared data sets lie; "" is the folder of tfds, which is
      `~/tensorflow_datasets` unless the variable TFDS_DATA_DIR says otherwise.
    manual_dir: where original files lie; "" is `downloads/manual` in
      `data_dir`.
    download: whether missing original files may come from the network.

  Returns:
    The splits "train" and "test"; images are mapped from disk, read-only.

  Raises:
    InputError: an unknown name, missing or damaged files, or a `data_dir` that
      cannot be written.
  """
  if name not in SOURCES:
    raise types.InputError(
      f"Unknown data set {name!r}; known: {', '.join(SOURCES)}."
    )
  root = (
    pathlib.Path(data_dir or tfds.core.constants.DATA_DIR)
    .expanduser()
    .absolute()
  )
  manual = pathlib.Path(manual_dir or root / "downloads" / "manual")
  try:
    if name == "mnist":
      builder = mnist.Mnist(
        manual_dir=manual.expanduser().absolute(),
        download=download,
        data_dir=root,
        file_format="array_record",
      )
    else:
      builder = mnist.Mnist5k(data_dir=root, file_format="array_record")
    return {split: _decoded(builder, split) for split in ("train", "test")}
  except OSError as error:
    raise types.InputError(
      f"The data set {name} cannot be prepared in {root}: {error}. Choose "
      "another folder with --config.data.dir=DIR."
    ) from error


def _decoded(builder: tfds.core.DatasetBuilder, split: str) -> Images:
  """Maps the decoded images of a split, after decoding them if need be."""
  folder = pathlib.Path(builder.data_dir) / "decoded" / split
  if not folder.is_dir():
    # tfds prints and draws bars; the library does neither.
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare()
    source = builder.as_data_source(split=split)
    examples = source.__getitems__(range(len(source)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = pathlib.Path(tempfile.mkdtemp(dir=folder.parent))
    try:
      np.save(staged / "image.npy", np.stack([e["image"] for e in examples]))
      np.save(
        staged / "label.npy",
        np.array([e["label"] for e in examples], np.int32),
      )
      os.rename(staged, folder)
    except OSError:
      shutil.rmtree(staged, ignore_errors=True)
      if not folder.is_dir():  # Else another run was quicker.
        raise
  return Images(
    np.load(folder / "image.npy", mmap_mode="r"),
    np.load(folder / "label.npy", mmap_mode="r"),
  )
