"""Loads data sets and folders by name, as uint8 arrays."""

from __future__ import annotations

import contextlib
import functools
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data import decoded, pictures, roles
from icm_jax.data import records as records_lib
from icm_jax.data.builders import (
  base,
  celeb_a,
  face_mask,
  ffhq,
  lfw,
  mnist,
  mnist_c,
  omniglot,
  orl_faces,
  real_and_fake_faces,
  tufts_faces,
  utkface,
  yale_faces,
)
from icm_jax.mechanisms import corruptions

# Largest number of pictures in a user's folder.
MAX_IMAGES = 1_000_000


class Source(NamedTuple):
  """A data set by name: how to read, view and divide it.

  Attributes:
    builder: class that reads the original files; made with `manual_dir`,
      `download`, `progress` and `data_dir`.
    view: defaults of `pictures.View` for the data set.
    roles: rules for canonical examples and for all groups that a user may
      name, and the column of people.
  """

  builder: type[base.ImageBuilder]
  view: Mapping[str, Any] = {}
  roles: roles.Roles = roles.Roles()


_DIGITS = {"channels": 1, "content": 28}
_GREY = {"channels": 1}
_RGB = {"channels": 3}


def _each(column: str, values: str) -> dict[str, str]:
  return {value: f"{column}={value}" for value in values.split()}


SOURCES = {
  "mnist_5k": Source(mnist.Mnist5k, _DIGITS),
  "mnist": Source(mnist.Mnist, _DIGITS),
  "fashion_mnist": Source(mnist.FashionMnist, _DIGITS),
  "mnist_c": Source(
    mnist_c.MnistC,
    _DIGITS,
    roles.Roles(
      canonical="corruption=identity",
      groups=_each("corruption", " ".join(corruptions.BENCHMARK)),
    ),
  ),
  # The view gives letters strokes as wide as a digit's, white on black.
  "omniglot": Source(
    omniglot.Omniglot,
    {**_DIGITS, "invert": True},
    roles.Roles(person="drawing"),
  ),
  "orl_faces": Source(orl_faces.OrlFaces, _GREY, roles.Roles(person="person")),
  "celeb_a": Source(
    celeb_a.CelebA,
    {**_RGB, "crop": 148},
    roles.Roles(
      groups={
        **{name: f"{name}=1" for name in celeb_a.ATTRIBUTES},
        "Beard": "No_Beard=0",
      },
      person="person",
    ),
  ),
  "utkface": Source(
    utkface.UtkFace,
    _RGB,
    roles.Roles(
      canonical="age=20-39",
      groups={
        "child": "age=0-12",
        "teenager": "age=13-19",
        "middle_aged": "age=40-59",
        "old": "age=60-120",
      },
    ),
  ),
  "lfw": Source(lfw.Lfw, {**_RGB, "crop": 150}, roles.Roles(person="person")),
  "yale_faces": Source(
    yale_faces.YaleFaces,
    _GREY,
    roles.Roles(
      canonical="condition=normal",
      groups=_each(
        "condition",
        "glasses leftlight rightlight centerlight happy sad sleepy surprised "
        "wink noglasses",
      ),
      person="person",
    ),
  ),
  "face_mask": Source(
    face_mask.FaceMask,
    _RGB,
    roles.Roles(
      canonical="condition=without_mask",
      groups=_each("condition", "with_mask mask_weared_incorrect"),
    ),
  ),
  "real_and_fake_faces": Source(
    real_and_fake_faces.RealAndFakeFaces,
    _RGB,
    roles.Roles(
      canonical="fake=0",
      groups=real_and_fake_faces.GROUPS,
    ),
  ),
  "ffhq": Source(ffhq.Ffhq, _RGB),
  "tufts_faces": Source(
    tufts_faces.TuftsFaces,
    _RGB,
    roles.Roles(
      canonical="modality=visible",
      groups=_each("modality", "thermal near_infrared sketch lytro 3d"),
      person="person",
    ),
  ),
}

KINDS = (
  *SOURCES,
  "tfds:NAME",
  "folder:PATH",
  "folders:CANONICAL,TRANSFORMED",
)


class DataSet(NamedTuple):
  """A prepared data set.

  Attributes:
    name: name as given by the user.
    images: all examples; the column `split` contains the original's splits.
    roles: rules of the data set, with every group that it knows.
    skipped: names and reasons of pictures that were left out.
    terms: licence and terms of use; "" if they are not known.
    default_groups: groups to use if the user names none; empty for image
      mechanisms.
    origin: folder of the original files from which it was prepared; "" if it
      is not known, or came with a package.
  """

  name: str
  images: decoded.Images
  roles: roles.Roles
  skipped: Sequence[tuple[str, str]]
  terms: str
  default_groups: tuple[str, ...] = ()
  origin: str = ""


def load(
  name: str,
  *,
  image_size: int,
  view: Mapping[str, Any] | None = None,
  data_dir: str = "",
  manual_dir: str = "",
  download: bool = False,
  max_images: int = MAX_IMAGES,
  progress: decoded.Progress | None = None,
) -> DataSet:
  """Loads a data set; the first call prepares it.

  Prepared data is an array_record data set below `data_dir`, with its pictures,
  decoded to one uint8 array, beside it. Both are written as a whole or not at
  all, by one process while others wait.

  Args:
    name: one of `SOURCES`; `tfds:NAME`, a data set that was prepared with tfds
      in the format array_record; `folder:PATH`, every picture below a folder;
      or `folders:CANONICAL,TRANSFORMED`, where the sub-folders of TRANSFORMED,
      if there are any, are its groups.
    image_size: height and width of the result, in pixels.
    view: fields of `pictures.View` that replace the data set's defaults.
    data_dir: folder of prepared data sets; "" is the folder of tfds, which is
      `~/tensorflow_datasets` unless the environment variable TFDS_DATA_DIR is
      set.
    manual_dir: folder of original files; "" is `downloads/manual` in
      `data_dir`, or its sub-folder with the data set's name if there is one.
    download: whether missing original files may come from the network.
    max_images: a folder with more pictures is refused.
    progress: called with the name of the task, the amount that is done, and the
      total, which is 0 if it is not known.

  Raises:
    InputError: the name is unknown, files are missing or damaged, the view is
      not possible, or `data_dir` cannot be written.
  """
  kind, colon, rest = name.partition(":")
  root = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR)
  root = root.expanduser().absolute()
  progress = progress or (lambda what, done, total: None)
  try:
    if kind in SOURCES and not colon:
      return _original(
        name, root, manual_dir, download, image_size, view, progress
      )
    if kind == "tfds" and rest:
      return _stock(name, rest, root, image_size, view, progress)
    if kind in ("folder", "folders") and rest:
      return _own(name, root, max_images, image_size, view, progress)
  except OSError as error:
    raise types.InputError(
      f"The data set {name} cannot be prepared in {root}: {error}. Change "
      "permissions or free space, or choose other folders with "
      "--config.data.dir=DIR and --config.data.manual_dir=DIR."
    ) from error
  raise types.InputError(
    f"Unknown data set {name!r}; known: {', '.join(KINDS)}."
  )


def make_view(
  image_size: int, *overrides: Mapping[str, Any] | None
) -> pictures.View:
  """Joins defaults and overrides; later ones win, and None keeps the default.

  Raises:
    InputError: a size or a number of channels is not possible.
  """
  fields: dict[str, Any] = {"channels": 3}
  for override in overrides:
    fields |= {k: v for k, v in (override or {}).items() if v is not None}
  view = pictures.View(size=image_size, **fields)
  least = max(view.content, 1)
  if image_size < least:
    raise types.InputError(
      f"The image size must be at least {least}, the size of the data set's "
      f"images; got {image_size}."
    )
  if view.channels not in (1, 3):
    raise types.InputError(
      f"Images have 1 channel (grey) or 3 (RGB); got {view.channels}."
    )
  for field in ("crop", "content", "max_pixels"):
    if getattr(view, field) < 0:
      raise types.InputError(
        f"{field} must be at least 0; got {getattr(view, field)}."
      )
  return view


def _decode(builder, view, progress):
  folder = pathlib.Path(builder.data_dir) / "decoded"
  return decoded.decode(
    records_lib.TfdsRecords(builder), view, folder, progress=progress
  )


def _original(
  name, root, manual_dir, download, image_size, view, progress
) -> DataSet:
  source = SOURCES[name]
  view = make_view(image_size, source.view, view)
  manual = pathlib.Path(manual_dir or root / "downloads" / "manual")
  manual = manual.expanduser().absolute()
  if not manual_dir and (manual / name).is_dir():
    manual /= name
  make_builder = functools.partial(
    source.builder,
    manual_dir=manual,
    download=download,
    progress=lambda count: progress("reading", count, 0),
    data_dir=root,
  )
  if not make_builder().data_path.exists():
    with decoded.locked(root / name):
      # tfds prints and draws bars; the library does neither.
      tfds.disable_progress_bar()
      with contextlib.redirect_stdout(io.StringIO()):
        builder = make_builder()
        builder.note_origin()
        builder.download_and_prepare()
  builder = make_builder()  # A new builder reads what is prepared by now.
  if manual_dir:
    builder.check_origin()
  images, skipped = _decode(builder, view, progress)
  skipped = [*map(tuple, builder.info.metadata["skipped"]), *skipped]
  return DataSet(
    name,
    images,
    source.roles,
    skipped,
    source.builder.TERMS,
    origin=builder.origin,
  )


def _stock(name, rest, root, image_size, view, progress) -> DataSet:
  folder = root / rest
  versions = sorted(
    (path.parent for path in folder.glob("**/dataset_info.json")),
    key=lambda path: [
      int(part) if part.isdigit() else 0 for part in path.name.split(".")
    ],
  )
  if not versions:
    raise types.InputError(
      f"{folder} holds no prepared data set. Prepare {rest} with "
      "tensorflow-datasets in the format array_record, or name the folder "
      "above it with --config.data.dir=DIR."
    )
  builder = tfds.builder_from_directory(versions[-1])
  if builder.info.file_format.value != "array_record":
    raise types.InputError(
      f"{versions[-1]} is in the format {builder.info.file_format.value}, "
      "which needs TensorFlow to read. Prepare it again with "
      'file_format="array_record".'
    )
  feature = dict(builder.info.features.items()).get("image")
  if not isinstance(feature, tfds.features.Image):
    raise types.InputError(
      f"{rest} has no feature `image`; it has: "
      f"{', '.join(builder.info.features)}."
    )
  channels = {"channels": 1 if feature.shape[-1] == 1 else 3}
  images, skipped = _decode(
    builder, make_view(image_size, channels, view), progress
  )
  terms = builder.info.redistribution_info.license
  return DataSet(name, images, roles.Roles(), skipped, terms)


def _own(name, root, max_images, image_size, view, progress) -> DataSet:
  kind, _, rest = name.partition(":")
  paths = [rest] if kind == "folder" else rest.split(",")
  folders = [pathlib.Path(path).expanduser().absolute() for path in paths]
  if kind == "folder":
    sides = {"canonical": folders[0]}
  elif len(folders) == 2:
    sides = dict(zip(("canonical", "transformed"), folders, strict=True))
    one, other = (folder.resolve() for folder in folders)
    if one.is_relative_to(other) or other.is_relative_to(one):
      raise types.InputError(
        "folders: needs two folders of which neither contains the other, or "
        f"pictures would be both canonical and transformed; got {rest}."
      )
  else:
    raise types.InputError(
      f"folders: needs two folders, as in folders:CANONICAL,TRANSFORMED; got "
      f"{len(folders)}: {rest}."
    )
  records = records_lib.FolderRecords(sides, max_images, grouped="transformed")
  groups = {}
  if kind == "folders":
    names = records.groups("transformed")
    for group in names:
      if group != group.strip() or "&" in group or "|" in group:
        raise types.InputError(
          f"The sub-folder {group!r} of {folders[1]} cannot be a group: rules "
          "use & and |, and ignore spaces at the ends. Rename it."
        )
    groups = {group: f"side=transformed&folder={group}" for group in names} or {
      "transformed": "side=transformed"
    }
  images, skipped = decoded.decode(
    records, make_view(image_size, view), root / "folders", progress=progress
  )
  skipped = [*records.skipped, *skipped]
  canonical = "side=canonical" if groups else ""
  return DataSet(
    name,
    images,
    roles.Roles(canonical, groups),
    skipped,
    terms="",
    default_groups=tuple(groups),
  )
