"""Draws mechanisms on faces, or on the images of a data set.

  python -m experiments.mechanisms --out=docs/mechanisms.png
  python -m experiments.mechanisms --preset=mnist_c --name=mnist_5k \
      --image_size=28
  python -m experiments.mechanisms --workdir=runs/celeba --out=docs/faces.png

Each row is a mechanism with its parameters: those of the preset, or else the
defaults. The preset `faces` is drawn with all other mechanisms, but for those
of `mnist_c`, which suit digits. Only one of the shifts is drawn. Without
`--name` the face is Grace Hopper's, in a photograph by the U.S. Navy in the
public domain.

With `--workdir`, the folder of a run on faces in colour, the portrait is drawn
as each of the run's mechanisms distorts it, and as the run's experts restore
it.
"""

from __future__ import annotations

import pathlib

import jax
import matplotlib.cbook
import numpy as np
import PIL.Image
from absl import flags

import icm_jax
from experiments import launch
from icm_jax import mechanisms, types
from icm_jax.data import problem, sources
from icm_jax.learned import loading
from icm_jax.mechanisms import faces
from icm_jax.training import atomic_files
from icm_jax.viz import contact_sheet

_PEOPLE = 8
# Left, top, right and bottom of the crop, in which eyes and mouth lie where
# those of celeb_a do.
_FACE = (99, 12, 430, 343)


def portrait(image_size: int) -> np.ndarray:
  """Returns a face that comes with matplotlib, aligned like those of celeb_a.

  Returns:
    [1, image_size, image_size, 3] uint8.
  """
  with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
    image = PIL.Image.open(file).convert("RGB")
  size = (image_size, image_size)
  image = image.resize(size, PIL.Image.Resampling.LANCZOS, box=_FACE)
  return np.asarray(image)[None]


def rows(
  image_BHWC: np.ndarray, *, geometry: str, preset: str = "faces"
) -> list[contact_sheet.Row]:
  """Returns rows of the images without and with every mechanism.

  Args:
    image_BHWC: uint8; RGB for the preset `faces`.
    geometry: position of the faces; a key of `mechanisms.faces.GEOMETRIES`.
    preset: a key of `mechanisms.PRESETS`; all mechanisms but those of `mnist_c`
      are drawn for `faces`, and its own mechanisms for any other.
  """
  parameters = dict(mechanisms.PRESETS[preset])
  names = parameters.pop("names")
  if preset == "faces":
    digits = mechanisms.PRESETS["mnist_c"]["names"]
    names = [name for name in mechanisms.MECHANISMS if name not in digits]
  drawn = [contact_sheet.Row("clean", "", image_BHWC)]
  families = set()
  for index, name in enumerate(names):
    (mechanism,) = mechanisms.by_names([name], parameters)
    if mechanisms.family(mechanism) in families:
      continue
    families.add(mechanisms.family(mechanism))
    if mechanisms.covered(mechanism, image_BHWC.shape[1:3]) is not None:
      own = parameters.get(name, {}) | {"geometry": geometry}
      (mechanism,) = mechanisms.by_names([name], {name: own})
    keys = jax.random.split(jax.random.key(index), len(image_BHWC))
    distort = jax.jit(jax.vmap(mechanism))
    x_BHWC = distort(keys, problem.to_float(image_BHWC))
    note = ", ".join(
      f"{key} {value}"
      for key, value in mechanisms.parameters_of(mechanism).items()
      if key != "geometry"
    )
    distorted_BHWC = np.round(255 * np.asarray(x_BHWC)).astype(np.uint8)
    drawn.append(contact_sheet.Row(name, note, distorted_BHWC))
  return drawn


def restored_rows(learned: loading.Learned) -> list[contact_sheet.Row]:
  """Returns the portrait as a run's mechanisms distort it, and as restored.

  Args:
    learned: a run with image mechanisms on square RGB images.

  Raises:
    InputError: the run is of another kind.
  """
  height, width, channels = learned.shape_HWC
  parameters = learned.config.mechanisms.to_dict()
  names = parameters.pop("names")
  if learned.config.data.groups or height != width or channels != 3:
    raise types.InputError(
      "--workdir must be the folder of a run with image mechanisms on square "
      f"RGB images; {learned.workdir} has images of {height}x{width}x{channels}"
      f"{' and groups' if learned.config.data.groups else ''}."
    )
  (image_HWC,) = portrait(height)
  clean_HWC = problem.to_float(image_HWC)
  distorted_BHWC = np.stack(
    [
      np.asarray(jax.jit(mechanism)(jax.random.key(index), clean_HWC))
      for index, mechanism in enumerate(mechanisms.by_names(names, parameters))
    ]
  )
  restored = learned.restore(distorted_BHWC)
  bytes_of = lambda x_BHWC: np.round(255 * np.asarray(x_BHWC)).astype(np.uint8)
  return [
    contact_sheet.Row("distorted", "", bytes_of(distorted_BHWC)),
    contact_sheet.Row(
      "restored", "by the winner", bytes_of(restored.restored_BHWC)
    ),
  ]


def main() -> None:
  """Draws the picture that the flags describe."""
  args = flags.FLAGS
  path = pathlib.Path(args.out).expanduser()
  path.parent.mkdir(parents=True, exist_ok=True)
  drawn = (
    restored_rows(icm_jax.load(args.workdir))
    if args.workdir
    else rows(_images(args), geometry=args.geometry, preset=args.preset)
  )
  atomic_files.write_bytes(path, contact_sheet.draw(drawn))
  print(path)


def _images(args) -> np.ndarray:
  """The images of the flags, [B, H, W, C] uint8."""
  if args.name:
    data = sources.load(
      args.name,
      image_size=args.image_size,
      # Only faces are drawn in coloured light.
      view={"channels": 3 if args.preset == "faces" else None},
      data_dir=args.data_dir,
      manual_dir=args.manual_dir,
    )
    image_NHWC = data.images.image_NHWC
    ids = np.linspace(0, len(image_NHWC) - 1, _PEOPLE).astype(int)
    return image_NHWC[ids]
  return portrait(args.image_size)


if __name__ == "__main__":
  flags.DEFINE_string("out", "runs/mechanisms.png", "The picture.")
  flags.DEFINE_string("workdir", "", "Run whose experts restore the portrait.")
  flags.DEFINE_string("name", "", "Data set; by default, the portrait.")
  flags.DEFINE_string("data_dir", "", "Prepared data; see experiments.data.")
  flags.DEFINE_string("manual_dir", "", "Original files.")
  flags.DEFINE_integer("image_size", 40, "Pixels.", lower_bound=8)
  flags.DEFINE_enum("preset", "faces", [*mechanisms.PRESETS], "Mechanisms.")
  flags.DEFINE_enum("geometry", "celeb_a", [*faces.GEOMETRIES], "Face.")
  launch.run(main)
