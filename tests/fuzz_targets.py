"""What `tests.fuzz` gives cases to: readers of files, and configs."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from flax.traverse_util import flatten_dict
from hypothesis import strategies as st

from experiments import kinds
from experiments.configs import mnist, rim_copying
from icm_jax import types
from icm_jax.data import pictures
from icm_jax.data.builders import (
  celeb_a,
  face_mask,
  ffhq,
  files,
  lfw,
  omniglot,
)
from icm_jax.data.builders import mnist as mnist_builder
from icm_jax.rim import build as rim_build
from icm_jax.training import build, checkpoint, ranges, run_folder
from icm_jax.viz import run_files

_NUMBERS = [0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1]
_TEXTS = [b"\0", b"\xff\xfe", b"-1", b"1e9", b"nan", b"{", b"]", b'"', b"\n"]


@st.composite
def changed(draw, originals: Sequence[bytes]) -> bytes:
  """Bytes of a file after up to four changes; rarely bytes of no file."""
  if draw(st.integers(0, 15)) == 0:
    return draw(st.binary(max_size=64))
  data = bytearray(draw(st.sampled_from(originals)))
  for _ in range(draw(st.integers(1, 4))):
    at = draw(st.integers(0, len(data)))
    kind = draw(st.sampled_from(["flip", "cut", "drop", "add", "copy", "put"]))
    if kind == "flip" and at < len(data):
      data[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "cut":
      del data[at:]
    elif kind == "drop":
      del data[at : at + draw(st.integers(1, 16))]
    elif kind == "add":
      data[at:at] = draw(st.sampled_from(_TEXTS) | st.binary(max_size=8))
    elif kind == "copy":
      data[at:at] = data[: draw(st.integers(0, 64))]
    else:
      size = draw(st.sampled_from([1, 2, 4]))
      number = draw(st.sampled_from(_NUMBERS)) % 256**size
      order = draw(st.sampled_from(["big", "little"]))
      data[at : at + size] = number.to_bytes(size, order)
  return bytes(data)


class Target(NamedTuple):
  """What is fuzzed.

  Attributes:
    cases: what a case is drawn from.
    use: reads a case, in a folder of its own.
    share: how many of 100 cases are for it.
    refusals: errors by which a case may be refused.
  """

  cases: st.SearchStrategy
  use: Callable[[pathlib.Path, object], None]
  share: int
  refusals: tuple[type[Exception], ...] = (types.InputError,)


def _written(read, name: str):
  """Returns a function that writes a case to a file and reads it."""

  def use(folder, data):
    (folder / name).write_bytes(data)
    read(folder / name)

  return use


def _idx() -> list[bytes]:
  images = np.arange(2 * 3 * 4, dtype=np.uint8)
  header = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4))
  return [gzip.compress(header + images.tobytes(), mtime=0)]


def _unpacked_idx(path: pathlib.Path, data: bytes) -> None:
  """Also reads changes of what is in the gzip file."""
  (path / "a.gz").write_bytes(gzip.compress(data, 1))
  mnist_builder.read_idx(path / "a.gz")


def _pictures() -> list[bytes]:
  image_HWC = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
  image = PIL.Image.fromarray(image_HWC)
  exif = PIL.Image.Exif()
  exif[0x112] = 6
  out = []
  for kind, mode in (
    ("PNG", "RGB"),
    ("PNG", "I;16"),
    ("PNG", "P"),
    ("JPEG", "RGB"),
    ("JPEG", "CMYK"),
    ("GIF", "P"),
    ("BMP", "RGB"),
    ("TIFF", "RGB"),
    ("TIFF", "YCbCr"),
    ("WEBP", "RGB"),
    ("PPM", "RGB"),
    ("TGA", "RGB"),
    ("ICO", "RGB"),
    ("PCX", "RGB"),
  ):
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind, exif=exif)
    out.append(buffer.getvalue())
  return out


def _read_picture(folder, case) -> None:
  del folder
  data, view = case
  image_HWC = pictures.read(data, view)
  assert image_HWC.shape == (view.size, view.size, view.channels)


_VIEWS = st.builds(
  pictures.View,
  size=st.just(8),
  channels=st.sampled_from([1, 3]),
  crop=st.sampled_from([0, 1, 3, 100]),
  frame=st.sampled_from([pictures.Frame(), pictures.Frame(-0.2, 0.1, 1.3)]),
  content=st.sampled_from([0, 5]),
  invert=st.booleans(),
  max_pixels=st.sampled_from([70, 1000]),
)
_VOC = b"""<?xml version="1.0"?>
<annotation><filename>x.png</filename>
<object><name>with_mask</name><bndbox><xmin>0</xmin><ymin>1.0</ymin>
<xmax>16</xmax><ymax>17</ymax></bndbox></object></annotation>"""


def _read_voc(folder, data) -> None:
  (folder / "x.xml").write_bytes(data)
  if not (folder / "x.png").exists():
    PIL.Image.new("RGB", (30, 40)).save(folder / "x.png")
  builder = _builder(face_mask.FaceMask, folder)
  list(builder._faces(folder / "x.png", folder / "x.xml"))


@functools.cache
def _builder(kind, folder):
  return kind(manual_dir=folder, data_dir=folder / "prepared")


def _tables() -> dict[str, tuple[Callable, list[bytes]]]:
  """Readers of tables and valid tables by file name."""
  rows = "".join(f"{n:06}.jpg {n % 3}\n" for n in range(1, 6)).encode()
  names = " ".join(celeb_a.LANDMARKS)
  values = " ".join(str(n) for n in range(10))
  marks = f"2\n{names}\n000001.jpg {values}\n000002.jpg {values}\n".encode()
  pairs = b"2\t1\nAnn\t1\t2\nBob\t1\tCid\t3\nAnn\t1\t4\nBob\t1\tCid\t3\n"
  json_rows = json.dumps({"0": {"category": "training", "metadata": {}}})
  return {
    "part.txt": (
      lambda path: celeb_a._read_table(path, np.int8, allowed=("0", "1", "2")),
      [rows],
    ),
    "part.csv": (
      lambda path: celeb_a._read_table(path, np.int32),
      [b"image_id,partition\n" + rows.replace(b" ", b",")],
    ),
    "marks.txt": (
      lambda path: celeb_a._read_table(path, np.int32, names=celeb_a.LANDMARKS),
      [marks],
    ),
    "pairs.txt": (lfw.read_pairs, [pairs]),
    "rows.json": (ffhq._read_table, [json_rows.encode()]),
  }


def _read_table(folder, case) -> None:
  name, data = case
  (folder / name).write_bytes(data)
  _tables()[name][0](folder / name)


def _zip() -> list[bytes]:
  out = []
  for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
      for number in (1, 2):
        name = f"images_background/Greek/character0{number}/0001_0{number}.png"
        archive.writestr(zipfile.ZipInfo(name), _pictures()[0])
    out.append(buffer.getvalue())
  return out


def _read_zip(folder, data) -> None:
  path = folder / "images_background.zip"
  path.write_bytes(data)
  builder = _builder(omniglot.Omniglot, folder)
  with files.open_zip(path):
    list(builder._generate_examples(path, builder._members(path)))


@chex.dataclass(frozen=True)
class _State:
  """A state with a few arrays instead of networks."""

  step: jax.Array
  key: jax.Array
  layers: list


def _state(step: int) -> _State:
  return _State(
    step=jnp.int32(step),
    key=jax.random.key(3),
    layers=[{"kernel": jnp.arange(16.0).reshape(8, 2) + step}],
  )


@functools.cache
def _checkpoints(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
  """Writes two checkpoints; returns the files of the newest one."""
  with contextlib.closing(checkpoint.Checkpoints(folder)) as checkpoints:
    for step in (1, 2):
      progress = {"seconds": {}, checkpoint.SCORE: 0.5}
      checkpoints.save(checkpoint.Saved(_state(step), {}, progress))
  newest = folder / checkpoint.FOLDER / "2"
  paths = sorted(path for path in newest.rglob("*") if path.is_file())
  return {path: path.read_bytes() for path in paths}


@st.composite
def _damage(draw) -> tuple[int, str, int, bytes]:
  """Which file, what happens to it, where, and what is put there."""
  return (
    draw(st.integers(0, 10_000)),
    draw(st.sampled_from(["missing", "cut", "put", "add", "flip"])),
    draw(st.integers(0, 10_000)),
    draw(st.sampled_from(_TEXTS) | st.binary(min_size=1, max_size=4)),
  )


def _read_checkpoint(folder, damage) -> None:
  number, kind, at, text = damage
  contents = _checkpoints(folder)
  path = [*contents][number % len(contents)]
  content = contents[path]
  at %= len(content) + 1
  if kind == "missing":
    path.unlink()
  elif kind == "flip":
    bit = bytes(byte ^ 1 << number % 8 for byte in content[at : at + 1])
    path.write_bytes(content[:at] + bit + content[at + 1 :])
  else:
    rest = {"cut": b"", "put": text + content[at + len(text) :]}
    rest["add"] = text + content[at:]
    path.write_bytes(content[:at] + rest[kind])
  try:
    for writes in (False, True):
      opened = checkpoint.Checkpoints(folder, writes=writes)
      with contextlib.closing(opened) as checkpoints:
        saved = checkpoints.read_newest(_state(0), {})
      step = int(saved.state.step)
      assert step in (1, 2)
      assert bool(checkpoints.passed_over()) == (step == 1)
      np.testing.assert_array_equal(
        saved.state.layers[0]["kernel"], _state(step).layers[0]["kernel"]
      )
  finally:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _run_files() -> dict[str, list[bytes]]:
  """Valid files of a run by name."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, a=np.zeros((2, 3)), b=np.array(["x"]))
  config = mnist.get_config("smoke")
  content = {"format": run_folder.FORMAT, "saw": {}, "config": config.to_dict()}
  result = {
    "config": {"seed": 0},
    "seed": 0,
    "steps": 3,
    "time": {"total_s": 1.0},
    "versions": {"jax": "1"},
  }
  rows = b'{"step": 1, "wall_s": 0.1, "a": [1, 2]}\n{"step": 2, "a": null}\n'
  return {
    run_folder.CONFIG: [json.dumps(content).encode()],
    run_folder.RESULT: [json.dumps(result).encode()],
    run_folder.METRICS: [rows],
    run_folder.EXAMPLES: [buffer.getvalue()],
  }


def _read_run(folder, case) -> None:
  name, data = case
  for other, (content,) in _run_files().items():
    (folder / other).write_bytes(data if other == name else content)
  for row in run_folder.read_metrics(folder):
    assert isinstance(row["step"], int), row
  run_files.read(folder)
  ranges.check(run_folder.read(folder).config)


_WORDS = ["", "auto", "right", "label=1", "folder:/nowhere", "a,b", "none"]
# Values by the type of the value that they replace; flags refuse other types.
_VALUES = {
  bool: st.booleans(),
  int: st.integers(-3, 40),
  float: st.floats(-2, 2)
  | st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e38, 1e-45]),
  str: st.sampled_from(_WORDS) | st.text(max_size=8),
  tuple: st.lists(
    st.sampled_from(_WORDS) | st.integers(-3, 40), max_size=3
  ).map(tuple),
  type(None): st.integers(-3, 40),
}
_LARGE = st.sampled_from([-(10**9), 2**31, 10**30])


def _config_cases(config, values) -> st.SearchStrategy:
  """Draws up to three values of a config, by their paths."""
  flat = flatten_dict(config.to_dict(), sep=".")
  pairs = st.sampled_from(sorted(flat)).flatmap(
    lambda path: st.tuples(st.just(path), values[type(flat[path])])
  )
  return st.lists(pairs, min_size=1, max_size=3).map(dict)


def _set(config, values) -> bool:
  """Sets values as flags do; False if a value has a type that they refuse."""
  for path, value in values.items():
    try:
      config.update_from_flattened_dict({path: value})
    # The type of a value that is no number or text is checked by the flag.
    except (TypeError, ValueError, AttributeError, KeyError):
      return False
  return True


def _build_images(folder, values) -> None:
  del folder
  config = mnist.get_config("smoke")
  config.evaluation.update(examples=30, curve_examples=30)
  if not _set(config, values):
    return
  kinds.check_keys(config)
  config = run_folder.absolute(config)
  build.build(config)


def _build_rim(folder, values) -> None:
  del folder
  config = rim_copying.get_config("smoke")
  if not _set(config, values):
    return
  kinds.check_keys(config)
  rim_build.build_run(run_folder.absolute(config))


TARGETS = {
  "configs of images": Target(
    _config_cases(
      mnist.get_config("smoke"), {**_VALUES, int: _VALUES[int] | _LARGE}
    ),
    _build_images,
    10,
  ),
  "configs of RIMs": Target(
    _config_cases(rim_copying.get_config("smoke"), _VALUES), _build_rim, 5
  ),
  "packed IDX": Target(
    changed(_idx()), _written(mnist_builder.read_idx, "a.gz"), 7
  ),
  "IDX": Target(
    changed([gzip.decompress(data) for data in _idx()]), _unpacked_idx, 8
  ),
  "VOC": Target(changed([_VOC]), _read_voc, 10),
  "tables": Target(
    st.one_of(
      [
        st.tuples(st.just(name), changed(tables))
        for name, (_, tables) in _tables().items()
      ]
    ),
    _read_table,
    15,
  ),
  "zips": Target(changed(_zip()), _read_zip, 10),
  "pictures": Target(
    st.tuples(changed(_pictures()), _VIEWS),
    _read_picture,
    15,
    (pictures.Unreadable,),
  ),
  "checkpoints": Target(_damage(), _read_checkpoint, 10),
  "files of runs": Target(
    st.one_of(
      [
        st.tuples(st.just(name), changed(contents))
        for name, contents in _run_files().items()
      ]
    ),
    _read_run,
    10,
  ),
}
