"""Base of the tensorflow-datasets builders, which do not need TensorFlow."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, file_adapters

from icm_jax import types
from icm_jax.data import folders, pictures
from icm_jax.data.builders import files

# Bytes of a shard, which bounds the memory that preparing needs.
SHARD_BYTES = 64 << 20
_PROGRESS_EVERY = 500


class _Info(tfds.core.DatasetInfo):
  """Information that comes from the builder and the prepared data alone."""

  def initialize_from_bucket(self) -> None:
    """Does nothing.

    tfds would look for what others have published about a data set of this
    name, and would leave an empty temporary folder for every builder.
    """


class ImageBuilder(
  # tensorflow-datasets has no types; its base class knows the argument.
  tfds.core.GeneratorBasedBuilder,
  skip_registration=True,  # type: ignore[call-arg]
):
  """A data set of images, read from its original files.

  A subclass describes the data set in class attributes. Its
  `_generate_examples` yields pairs of a number and an example: `image`, an
  encoded file (bytes, a path or a file object), and its `COLUMNS`. It reports
  examples that cannot be used to `_skip`; their list is stored with the
  prepared data, in `info.metadata["skipped"]`.

  Builders are not registered, because tfds has builders of the same names.
  """

  DESCRIPTION: ClassVar[str]
  HOMEPAGE: ClassVar[str]
  CITATION: ClassVar[str]
  TERMS: ClassVar[str]  # Licence and terms of use.
  IMAGE_SHAPE: ClassVar[tuple[int | None, int | None, int]] = (None, None, 3)
  # Features beside the image, all scalars.
  COLUMNS: ClassVar[Mapping[str, Any]]
  # Files and folders of the manual directory that are read, as patterns; empty
  # for data sets that come with a package.
  ORIGINALS: ClassVar[Sequence[str]] = ()

  def __init_subclass__(cls, **kwargs):
    super().__init_subclass__(skip_registration=True, **kwargs)

  def __init__(
    self,
    *,
    manual_dir: pathlib.Path = pathlib.Path(),
    download: bool = False,
    progress: Callable[[int], None] | None = None,
    **kwargs,
  ):
    """Makes the builder without reading any file.

    Args:
      manual_dir: the folder of the original files; data sets that come with a
        package need none.
      download: whether missing files may come from the network.
      progress: called from time to time with the number of examples read so
        far.
      **kwargs: arguments of tfds builders, such as `data_dir`.
    """
    self._manual_dir = pathlib.Path(manual_dir)
    self._download = download
    self._progress = progress or (lambda count: None)
    super().__init__(file_format="array_record", **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return _Info(
      builder=self,
      description=self.DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=self.IMAGE_SHAPE),
          **self.COLUMNS,
        }
      ),
      supervised_keys=("image", "label") if "label" in self.COLUMNS else None,
      homepage=self.HOMEPAGE,
      citation=self.CITATION,
      license=self.TERMS,
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(skipped=[]),
    )

  def note_origin(self) -> None:
    """Stores with the data from which original files they are prepared."""
    if digest := self._digest_of_originals():
      self.info.metadata["origin"] = [str(self._manual_dir), digest]

  @property
  def origin(self) -> str:
    """The folder from which the data were prepared; "" if it is not known."""
    return self.info.metadata.get("origin", [""])[0]

  def check_origin(self) -> None:
    """Makes sure that prepared data come from the manual directory.

    Raises:
      InputError: they were prepared from other files.
    """
    if not self.origin:
      return
    folder, digest = self.info.metadata["origin"]
    found = self._digest_of_originals()
    is_same = self._manual_dir == pathlib.Path(folder)
    # Originals may be gone when they are no longer needed.
    if found == digest or (is_same and not found):
      return
    raise types.InputError(
      f"{self.name} was prepared from {folder} ({digest}), but "
      f"--config.data.manual_dir={self._manual_dir} has "
      f"{found or 'none of its files'}. To use it as it is, leave "
      "--config.data.manual_dir out; to prepare it again, remove "
      f"{pathlib.Path(self.data_dir).parent} or choose another "
      "--config.data.dir."
    )

  def _digest_of_originals(self) -> str:
    """The number of original files, and a hash of their names and sizes."""
    paths: list[pathlib.Path] = []
    for pattern in self.ORIGINALS:
      for top in sorted(self._manual_dir.glob(pattern)):
        paths.append(top)
        for root, _, names in os.walk(top):
          paths += [pathlib.Path(root, name) for name in names]
    listed = sorted(
      f"{path.relative_to(self._manual_dir)} {path.stat().st_size}\n"
      for path in paths
      if path.is_file()
    )
    digest = hashlib.sha256("".join(listed).encode("utf-8", "replace"))
    return f"{len(listed):,} files, {digest.hexdigest()[:16]}" if listed else ""

  def _skip(self, name: str, reason: str) -> None:
    """Records that `name` is left out; equal reasons are counted together."""
    self.info.metadata["skipped"].append([files.printable(name), reason])

  def _folder(self, name: str) -> pathlib.Path:
    """A folder of the manual directory, which may lie in one of its name."""
    folder = self._manual_dir / name
    return folder / name if (folder / name).is_dir() else folder

  def _pictures(self, folder: pathlib.Path) -> list[pathlib.Path]:
    """Finds all pictures below a folder; what is left out is recorded.

    Raises:
      InputError: the folder, or a folder below it, cannot be read.
    """
    found = folders.find(folder)
    for path, reason in found.skipped:
      self._skip(path.relative_to(self._manual_dir).as_posix(), reason)
    return found.paths

  def _grey_png(self, path: pathlib.Path, name: str) -> io.BytesIO | None:
    """Converts a picture to a grey PNG; None if it is skipped."""
    try:
      return files.png(pictures.load(path.read_bytes()).convert("L"))
    except pictures.Unreadable as error:
      self._skip(name, str(error))
      return None

  def _grey_faces(
    self,
    folder: pathlib.Path,
    matches: Iterable[re.Match[str]],
    columns: Callable[[re.Match[str]], Mapping[str, Any]],
    instructions: str,
  ) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields examples of pictures that become grey PNGs.

    Args:
      folder: folder of the pictures.
      matches: matches of their names below the folder.
      columns: function from a match to the example's other columns.
      instructions: what to do if no picture can be read.

    Raises:
      InputError: no picture can be read.
    """
    index = 0
    for match in matches:
      name = f"{folder.name}/{match[0]}"
      # tfds would read the palette indices of a GIF as grey values, and
      # TensorFlow, which may read prepared data elsewhere, cannot decode PGM.
      encoded = self._grey_png(folder / match[0], name)
      if encoded is not None:
        yield index, {"image": encoded, "file": name, **columns(match)}
        index += 1
    if not index:
      raise types.InputError(
        f"No picture in {folder} can be read. {instructions}"
      )

  def _generate_splits(self, dl_manager, download_config):
    """Writes one shard after another.

    The writer of tfds would first collect a split, up to 1 GiB in memory and
    the rest in files that it opens with TensorFlow.
    """
    del download_config
    return [
      self._write_split(name, examples)
      for name, examples in self._split_generators(dl_manager).items()
    ]

  def _write_split(
    self, split: str, examples: Iterator[tuple[int, Mapping[str, Any]]]
  ) -> tfds.core.SplitInfo:
    features = self.info.features
    serializer = example_serializer.ExampleSerializer(
      features.get_serialized_info()
    )
    adapter = file_adapters.ADAPTER_FOR_FORMAT[self.info.file_format]
    folder = pathlib.Path(self.data_dir)
    staged: list[pathlib.Path] = []
    lengths: list[int] = []
    shard: list[tuple[int, bytes]] = []
    shard_bytes = total_bytes = 0

    def flush():
      nonlocal shard, shard_bytes
      staged.append(folder / f"{split}.shard-{len(staged)}")
      try:
        adapter.write_examples(str(staged[-1]), iter(shard))
      except RuntimeError as error:  # As it tells that the disk is full.
        raise OSError(str(error)) from error
      lengths.append(len(shard))
      shard, shard_bytes = [], 0

    for count, (number, example) in enumerate(examples, start=1):
      if count % _PROGRESS_EVERY == 0:
        self._progress(count)
      try:
        encoded = features.encode_example(example)
      except (FileNotFoundError, PermissionError):
        self._skip(example["file"], "cannot be opened")
        continue
      record = serializer.serialize_example(encoded)
      shard.append((number, record))
      shard_bytes += len(record)
      total_bytes += len(record)
      if shard_bytes >= SHARD_BYTES:
        flush()
    if shard:
      flush()
    if not staged:
      raise types.InputError(
        f"No file of the split {split} of {self.name} in {self._manual_dir} "
        "can be opened. Change the permissions of the files."
      )
    template = self._get_filename_template(split_name=split)
    # Names of shards contain the number of shards, which is known only now.
    for index, path in enumerate(staged):
      path.rename(
        template.sharded_filepath(shard_index=index, num_shards=len(staged))
      )
    return tfds.core.SplitInfo(
      name=split,
      shard_lengths=lengths,
      num_bytes=total_bytes,
      filename_template=template,
    )
