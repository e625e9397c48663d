"""Several devices, each of which computes a part of an update.

Inside `jax.shard_map` over mesh axes with the names below, a device has its own
part of the images, along `DATA`, and of the experts, along `EXPERT`. Devices
that differ in `EXPERT` alone have the same images. The functions of this file
combine the parts of devices. Along axes that a program is not divided over, and
outside `jax.shard_map`, they return their argument, so that the same code runs
on one device, as the same program.
"""

from __future__ import annotations

import math
from typing import TypeVar

import jax

DATA = "data"
EXPERT = "expert"
SEED = "seed"  # Independent runs, which never communicate.

Tree = TypeVar("Tree")


def _divided(axes: tuple[str, ...]) -> tuple[str, ...]:
  """Returns those of some axes that the program is divided over."""
  mesh = jax.sharding.get_abstract_mesh()
  return tuple(
    axis for axis in axes if axis in mesh.manual_axes and mesh.shape[axis] > 1
  )


def number(*axes: str) -> int:
  """Returns the number of parts along some axes; 1 outside of a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape[axis] for axis in _divided(axes))


def total(tree: Tree, *axes: str) -> Tree:
  """Sums the values of all devices along some axes of the mesh."""
  divided = _divided(axes)
  return jax.lax.psum(tree, divided) if divided else tree


def average(tree: Tree, *axes: str) -> Tree:
  """Averages the values of all devices along some axes of the mesh."""
  count = number(*axes)
  if count == 1:
    return tree
  return jax.tree.map(lambda a: a / count, total(tree, *axes))


def gradient(tree: Tree) -> Tree:
  """Combines the gradients of parameters that all devices share.

  Args:
    tree: gradient of a mean over this device's images, of its experts' part.
  """
  count, tree = number(DATA), total(tree, DATA, EXPERT)
  return tree if count == 1 else jax.tree.map(lambda a: a / count, tree)


def gather(array: jax.Array, **positions: int) -> jax.Array:
  """Joins the parts of all devices.

  Args:
    array: this device's part.
    **positions: by axis of the mesh, the position of the array's axis that is
      divided over it.

  Returns:
    The whole array, the same on all devices.
  """
  for axis in _divided(tuple(positions)):
    array = jax.lax.all_gather(array, axis, axis=positions[axis], tiled=True)
  return array


def own(array: jax.Array, **positions: int) -> jax.Array:
  """Returns this device's part of an array that all devices have.

  Args:
    array: the whole array.
    **positions: as in `gather`, which this function inverts.
  """
  for axis in _divided(tuple(positions)):
    size = array.shape[positions[axis]] // number(axis)
    array = jax.lax.dynamic_slice_in_dim(
      array, jax.lax.axis_index(axis) * size, size, positions[axis]
    )
  return array


def share(x_BHWC: jax.Array) -> jax.Array:
  """Divides images among the devices that have the same images.

  Args:
    x_BHWC: images of this device.

  Returns:
    The part that this device works on, for means over images: the average over
    devices of the means of their parts is the mean over all images. If images
    do not divide evenly, every device works on all of them.
  """
  if x_BHWC.shape[0] % number(EXPERT):
    return x_BHWC
  return own(x_BHWC, expert=0)
