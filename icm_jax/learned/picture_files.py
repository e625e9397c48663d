"""Restores files of pictures, which are read as those of the run were."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import io
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

from icm_jax import types
from icm_jax.data import folders, pictures, sources
from icm_jax.data.builders import files
from icm_jax.learned import loading
from icm_jax.training import atomic_files

# Pictures that are read, restored and written together.
_CHUNK = 4 * loading.BATCH_SIZE


class Planned(NamedTuple):
  """A picture to restore.

  Attributes:
    path: the file.
    name: its name below the folder that was given.
    written: its name below the folder of restored pictures, a PNG; "" if the
      file is left out.
    left_out: why it is left out before it is read; "" if it is not.
  """

  path: pathlib.Path
  name: str
  written: str
  left_out: str = ""


class Done(NamedTuple):
  """A picture after the experts.

  Attributes:
    planned: the picture.
    skipped: why it could not be read; "" if it could, and else nothing below
      has a meaning.
    experts: experts in the order of application; () if it was left alone.
    score: the discriminator's logit for the restored picture.
    change: logits by which an expert, or a chain of them, raises the score.
    before_HWC: uint8, the picture as the run sees it.
    after_HWC: uint8, restored.
  """

  planned: Planned
  skipped: str = ""
  experts: tuple[int, ...] = ()
  score: float = 0.0
  change: float = 0.0
  before_HWC: np.ndarray | None = None
  after_HWC: np.ndarray | None = None


def plan(
  paths: Sequence[pathlib.Path], *, written: Sequence[pathlib.Path]
) -> list[Planned]:
  """Finds pictures, and names what will be written.

  `a/b.jpg` becomes `a/b.png`, or `a/b.jpg.png` if there is another `a/b`.

  Args:
    paths: files, and folders with pictures at any depth.
    written: files and folders that earlier calls wrote, which are not read.

  Raises:
    InputError: a path does not exist, a folder holds no picture, or two
      pictures have the same name.
  """
  found: list[tuple[pathlib.Path, pathlib.PurePath]] = []
  left_out: list[Planned] = []
  ours = [path.resolve() for path in written]
  for path in paths:
    if path.is_dir():
      below = folders.find(path)
      inside = [
        (file, file.relative_to(path))
        for file in below.paths
        if not any(map(file.resolve().is_relative_to, ours))
      ]
      left_out += [
        Planned(
          file,
          files.printable(file.relative_to(path).as_posix()),
          written="",
          left_out=reason,
        )
        for file, reason in below.skipped
        if not any(map(file.absolute().is_relative_to, ours))
      ]
      if not inside:
        raise types.InputError(
          f"The folder {path} holds no picture; known suffixes: "
          f"{', '.join(sorted(folders.suffixes()))}."
        )
      found += inside
    elif path.exists():
      found.append((path, pathlib.PurePath(path.name)))
    else:
      raise types.InputError(f"There is no file or folder {path}.")
  stems = collections.Counter(name.with_suffix("") for _, name in found)
  planned = [
    Planned(
      path,
      files.printable(name.as_posix()),
      f"{name if stems[name.with_suffix('')] > 1 else name.with_suffix('')}"
      ".png",
    )
    for path, name in found
  ]
  names = collections.Counter(one.written for one in planned)
  for one in planned:
    if names[one.written] > 1:
      raise types.InputError(
        f"{names[one.written]} pictures would be written as {one.written}; "
        "restore them in separate calls, to separate folders."
      )
  return planned + left_out


def view_of(learned: loading.Learned) -> pictures.View:
  """How the run's own pictures became arrays."""
  c = learned.config.data
  source = sources.SOURCES.get(c.name)
  return sources.make_view(
    c.image_size,
    source.view if source else None,
    {"crop": c.crop, "max_pixels": c.max_pixels},
    {"channels": learned.shape_HWC[-1]},
  )


def restore(
  learned: loading.Learned,
  planned: Sequence[Planned],
  folder: pathlib.Path,
  *,
  margin: float,
  chain: bool = False,
  progress: Callable[[int, int], None] | None = None,
) -> Iterator[Done]:
  """Restores pictures and writes them, in the order in which they come.

  Args:
    learned: the run.
    planned: of `plan`.
    folder: of restored pictures; made if it does not exist.
    margin: logits by which experts must raise the score of a picture, or it is
      left alone; it is then written as the run sees it.
    chain: whether several experts may act on a picture.
    progress: called with the number of pictures done, and the total.

  Yields:
    What became of each picture.
  """
  read = functools.partial(_read, view=view_of(learned))
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for start in range(0, len(planned), _CHUNK):
      chunk = planned[start : start + _CHUNK]
      arrays = list(pool.map(read, chunk))
      done = _restore_chunk(learned, chunk, arrays, margin, chain)
      list(pool.map(functools.partial(_write, folder=folder), done))
      yield from done
      if progress:
        progress(start + len(chunk), len(planned))


def _restore_chunk(learned, chunk, arrays, margin, chain) -> list[Done]:
  before = [array for array in arrays if isinstance(array, np.ndarray)]
  x_NHWC = np.stack(before) if before else np.zeros((0, *learned.shape_HWC))
  if chain:
    y_NHWC, expert_NL, score_N, change_N = learned.chain(x_NHWC, margin=margin)
  else:
    y_NHWC, winner_N, score_N, change_N = learned.restore(x_NHWC, margin=margin)
    expert_NL = winner_N[:, None]
  after_NHWC = np.round(255 * y_NHWC).astype(np.uint8)
  done, number = [], 0
  for one, array in zip(chunk, arrays, strict=True):
    if isinstance(array, str):
      done.append(Done(one, skipped=array))
      continue
    used = expert_NL[number] != loading.LEFT_ALONE
    done.append(
      Done(
        one,
        experts=tuple(map(int, expert_NL[number][used])),
        score=float(score_N[number]),
        change=float(change_N[number]),
        before_HWC=array,
        after_HWC=after_NHWC[number],
      )
    )
    number += 1
  return done


def _read(one: Planned, view: pictures.View) -> np.ndarray | str:
  """A picture as an array, or why it cannot be read."""
  if one.left_out:
    return one.left_out
  try:
    return pictures.read(one.path.read_bytes(), view)
  except OSError as error:
    return f"cannot be read ({error.strerror})"
  except pictures.Unreadable as error:
    return str(error)


def _write(done: Done, folder: pathlib.Path) -> None:
  if done.after_HWC is None:
    return
  path = folder / done.planned.written
  path.parent.mkdir(parents=True, exist_ok=True)
  y_HWC = done.after_HWC
  image = PIL.Image.fromarray(y_HWC[..., 0] if y_HWC.shape[-1] == 1 else y_HWC)
  buffer = io.BytesIO()
  image.save(buffer, format="PNG")
  atomic_files.write_bytes(path, buffer.getvalue())
