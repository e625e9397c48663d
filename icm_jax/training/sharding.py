"""Runs on several devices: the mesh, and where states and batches lie on it.

A mesh has the axes of `icm_jax.devices`. Images are divided over `data`, and
experts with their statistics and optimizer states over `expert`; every device
has all of the rest. Without a mesh, everything is on one device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from icm_jax import competition, devices, types
from icm_jax.competition.remedies.smoothness import R1_STRIDE
from icm_jax.data import problem as problem_lib
from icm_jax.training import networks

if TYPE_CHECKING:
  import ml_collections

# Trees that are divided over `expert`, wherever they are in a state.
_OF_EXPERTS = frozenset(["experts_E", "expert_stats_E", "expert_opt_E"])
_IMAGES = PartitionSpec(devices.DATA)
_WHOLE = PartitionSpec()

Mesh = jax.sharding.Mesh


def make_mesh(config: ml_collections.ConfigDict) -> Mesh | None:
  """Makes the mesh that a config asks for; None is one device.

  Devices are in the order of their processes, so that every process reads
  images that follow one another.

  Args:
    config: config of a run; its section `mesh` has the sizes of axes, where a
      `data` of 0 takes all devices.

  Raises:
    InputError: there are fewer devices, or the batch or the experts cannot be
      divided among them.
  """
  data, expert = config.mesh.data, config.mesh.expert
  for name, value, least in (("data", data, 0), ("expert", expert, 1)):
    if not isinstance(value, int) or value < least:
      raise types.InputError(
        f"--config.mesh.{name} must be at least {least}; got {value!r}."
      )
  available = jax.device_count()
  data = data or max(1, available // expert)
  size = data * expert
  asked = f"--config.mesh.data={data} and --config.mesh.expert={expert}"
  if size > available or (jax.process_count() > 1 and size < available):
    raise types.InputError(
      f"{asked} are {size} devices; JAX has {available} in "
      f"{jax.process_count()} processes. Their product must be "
      f"{'at most ' if jax.process_count() == 1 else ''}{available}."
    )
  batch_size, experts = config.train.batch_size, networks.num_experts(config)
  if batch_size % size:
    raise types.InputError(
      f"--config.train.batch_size={batch_size} must be a multiple of the "
      f"{size} devices of {asked}."
    )
  if experts % expert:
    raise types.InputError(
      f"--config.mesh.expert={expert} must divide the {experts} experts of "
      "--config.experts.count."
    )
  looks = config.remedies.r1.weight and data > 1
  if looks and batch_size % (data * R1_STRIDE):
    raise types.InputError(
      f"The remedy r1 looks at every {R1_STRIDE}th canonical image, so that "
      f"--config.train.batch_size={batch_size} must be a multiple of "
      f"{R1_STRIDE} times {data}, the rows of devices of {asked}; or leave out "
      "r1 by --config.remedies.r1.weight=0."
    )
  if size == 1:
    return None
  ordered = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  return Mesh(
    np.array(ordered[:size]).reshape(data, expert),
    (devices.DATA, devices.EXPERT),
  )


def describe(mesh: Mesh) -> str:
  """Returns the number of devices along each axis, in words."""
  return ", ".join(f"{name} over {size}" for name, size in mesh.shape.items())


def is_first() -> bool:
  """Whether this process is the one of several that writes files."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Waits until all processes come to the place of this name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def largest(number: int) -> int:
  """Returns the largest of the numbers that all processes call this with."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.process_allgather(np.array(number)).max())


def specs(state: types.PyTree) -> types.PyTree:
  """Returns how the arrays of a state are divided, as a tree of specs."""

  def spec(path, _):
    names = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
    is_divided = _OF_EXPERTS.intersection(names)
    return PartitionSpec(devices.EXPERT) if is_divided else _WHOLE

  return jax.tree_util.tree_map_with_path(spec, state)


def shardings(mesh: Mesh, state: types.PyTree) -> types.PyTree:
  """Returns where the arrays of a state lie, as a tree of shardings."""
  return jax.tree.map(functools.partial(NamedSharding, mesh), specs(state))


def abstract(mesh: Mesh | None, state: types.PyTree) -> types.PyTree:
  """Adds to an abstract state where its arrays lie.

  Args:
    mesh: mesh of the run.
    state: abstract state, as `jax.eval_shape` returns it.
  """
  if mesh is None:
    return state
  return jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
    state,
    shardings(mesh, state),
  )


def make(
  mesh: Mesh | None, function: Callable[..., types.PyTree], *args: Any
) -> types.PyTree:
  """Makes a state where it lies, so that no device ever has all of it.

  Args:
    mesh: mesh of the run.
    function: returns a state; on one device it is called as it is.
    *args: arguments of the function.
  """
  if mesh is None:
    return function(*args)
  out = shardings(mesh, jax.eval_shape(function, *args))
  return jax.jit(function, out_shardings=out)(*args)


def collect(mesh: Mesh | None, tree: types.PyTree) -> types.PyTree:
  """Returns a copy on one device of this process, on which it is measured."""
  if mesh is None:
    return tree
  whole = NamedSharding(mesh, _WHOLE)
  tree = jax.jit(_same, out_shardings=whole)(tree)
  return jax.tree.map(lambda array: array.addressable_data(0), tree)


def _same(tree):
  return tree


def replicate(mesh: Mesh | None, tree: types.PyTree) -> types.PyTree:
  """Puts arrays that every process has on all devices."""
  if mesh is None:
    return tree
  return jax.device_put(jax.device_get(tree), NamedSharding(mesh, _WHOLE))


def process(mesh: Mesh | None) -> problem_lib.Process:
  """Returns which part of every batch this process reads.

  Raises:
    InputError: images of its devices are not a part of equal size.
  """
  if mesh is None:
    return problem_lib.ONLY_PROCESS
  is_own = [
    any(device.process_index == jax.process_index() for device in row)
    for row in mesh.devices
  ]
  first, count = is_own.index(True), sum(is_own)
  if first % count or len(is_own) % count:
    raise types.InputError(
      f"--config.mesh.expert={mesh.shape[devices.EXPERT]} must be a multiple "
      f"of the {jax.local_device_count()} devices of a process, or divide them."
    )
  return problem_lib.Process(first // count, len(is_own) // count)


def place_images(mesh: Mesh | None, tree: types.PyTree) -> types.PyTree:
  """Puts images on devices.

  Args:
    mesh: mesh of the run.
    tree: NumPy arrays with a leading axis of images, those of this process.
  """
  if mesh is None:
    return jax.device_put(tree)
  sharding = NamedSharding(mesh, _IMAGES)
  return jax.tree.map(
    lambda a: jax.make_array_from_process_local_data(sharding, a), tree
  )


def competition_step(
  state: types.TrainState,
  batch: types.Batch,
  *,
  setup: types.Setup,
  mesh: Mesh | None = None,
) -> tuple[types.TrainState, types.Metrics]:
  """Runs `competition.competition_step` on all devices of a mesh; to be jitted.

  Args:
    state: state before the update.
    batch: images of the update, those of all devices.
    setup: setup of the run.
    mesh: mesh of the run; None is one device.
  """
  step = functools.partial(competition.competition_step, setup=setup)
  if mesh is None:
    return step(state, batch)
  return _divide(step, mesh, state, (_IMAGES,))(state, batch)


def pretrain_step(
  state: types.TrainState,
  x_BHWC: jax.Array,
  target_BHWC: jax.Array,
  learning_E: jax.Array,
  *,
  setup: types.Setup,
  mesh: Mesh | None = None,
) -> tuple[types.TrainState, jax.Array]:
  """Runs `competition.pretrain_step` on all devices of a mesh; to be jitted.

  A batch that cannot be divided over `data` is computed on every device.

  Args:
    state: state of the run.
    x_BHWC: float32 in [0, 1], transformed images of all devices.
    target_BHWC: float32 in [0, 1], outputs that experts should learn.
    learning_E: bool, experts that learn.
    setup: setup of the run.
    mesh: mesh of the run; None is one device.
  """
  step = functools.partial(competition.pretrain_step, setup=setup)
  args = (state, x_BHWC, target_BHWC, learning_E)
  if mesh is None:
    return step(*args)
  images = _spec_of_images(mesh, x_BHWC)
  return _divide(step, mesh, state, (images, images, _WHOLE))(*args)


def _spec_of_images(mesh, tree) -> PartitionSpec:
  sizes = {leaf.shape[0] for leaf in jax.tree.leaves(tree)}
  fits = all(size % mesh.shape[devices.DATA] == 0 for size in sizes)
  return _IMAGES if fits else _WHOLE


def _divide(step, mesh, state, more_specs):
  """Divides a step over a mesh; its second result is the same everywhere."""
  return jax.shard_map(
    step,
    mesh=mesh,
    in_specs=(specs(state), *more_specs),
    out_specs=(specs(state), _WHOLE),
    check_vma=False,
  )


def seed_mesh(num_seeds: int) -> Mesh | None:
  """Makes a mesh of as many devices as divide the seeds; None is one device."""
  size = max(
    size
    for size in range(1, jax.local_device_count() + 1)
    if num_seeds % size == 0
  )
  if size == 1:
    return None
  return Mesh(np.array(jax.local_devices()[:size]), (devices.SEED,))


def of_seeds(mesh: Mesh | None) -> jax.sharding.Sharding:
  """Returns where arrays with a leading axis of seeds lie."""
  if mesh is None:
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return NamedSharding(mesh, PartitionSpec(devices.SEED))


def over_seeds(
  function: Callable[..., Any], mesh: Mesh | None, *, out_axes: Any = 0
) -> Callable[..., Any]:
  """Maps a function over a leading axis of seeds; to be jitted.

  Args:
    function: function of one seed's arrays.
    mesh: mesh of `seed_mesh`.
    out_axes: position of the axis of seeds in every result, as for `jax.vmap`.
  """
  mapped = jax.vmap(function, out_axes=out_axes)
  if mesh is None:
    return mapped
  spec = lambda axis: PartitionSpec(*[None] * axis, devices.SEED)
  return jax.shard_map(
    mapped,
    mesh=mesh,
    in_specs=spec(0),
    out_specs=jax.tree.map(spec, out_axes),
    check_vma=False,
  )
