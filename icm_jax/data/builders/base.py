"""What our tensorflow-datasets builders share; none needs TensorFlow."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, file_adapters

from icm_jax import types
from icm_jax.data import pictures
from icm_jax.data.builders import files

# Bytes of a shard: what preparing holds in memory.
SHARD_BYTES = 64 << 20
_PROGRESS_EVERY = 500


class ImageBuilder(
  # tensorflow-datasets has no types; its base class knows the argument.
  tfds.core.GeneratorBasedBuilder,
  skip_registration=True,  # type: ignore[call-arg]
):
  """A data set of images, read from its original files.

  A subclass says in class attributes what it is, and yields from
  `_generate_examples` pairs of a number and an example: `image`, an encoded
  file (bytes, a path or a file object), and its `COLUMNS`. Examples that cannot
  be used are named by `_skip`; their list is stored with the prepared data, in
  `info.metadata["skipped"]`.

  Builders are not registered, since tfds has builders of the same names.
  """

  DESCRIPTION: ClassVar[str]
  HOMEPAGE: ClassVar[str]
  CITATION: ClassVar[str]
  TERMS: ClassVar[str]  # Licence and terms of use.
  IMAGE_SHAPE: ClassVar[tuple[int | None, int | None, int]] = (None, None, 3)
  # Features beside the image, all scalars.
  COLUMNS: ClassVar[Mapping[str, Any]]

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
    """Makes the builder; reads nothing yet.

    Args:
      manual_dir: the folder that holds the original files; data sets that come
        with a package need none.
      download: whether files that are not there may come from the network.
      progress: called now and then with the number of examples read so far.
      **kwargs: of tfds builders, such as `data_dir`.
    """
    self._manual_dir = pathlib.Path(manual_dir)
    self._download = download
    self._progress = progress or (lambda count: None)
    super().__init__(file_format="array_record", **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
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

  def _skip(self, name: str, reason: str) -> None:
    """Notes that `name` is left out; equal reasons are counted together."""
    self.info.metadata["skipped"].append([files.printable(name), reason])

  def _grey_png(self, path: pathlib.Path, name: str) -> io.BytesIO | None:
    """A picture of another format as a grey PNG; None if it is skipped."""
    try:
      return files.png(pictures.load(path.read_bytes()).convert("L"))
    except pictures.Unreadable as error:
      self._skip(name, str(error))
      return None

  def _generate_splits(self, dl_manager, download_config):
    """Writes shard after shard.

    The writer of tfds first collects a split, in memory up to 1 GiB and beyond
    that in files that it opens by TensorFlow.
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
      adapter.write_examples(str(staged[-1]), iter(shard))
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
        f"Not one file of the split {split} of {self.name} in "
        f"{self._manual_dir} can be opened. Change their permissions."
      )
    template = self._get_filename_template(split_name=split)
    # Only now is the number of shards known, which their names hold.
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
