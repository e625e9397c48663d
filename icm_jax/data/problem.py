"""Problems: the transformed, canonical and test part of a data set; batches."""

from __future__ import annotations

import collections
import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import mechanisms as mechanisms_lib
from icm_jax import rng, types
from icm_jax.data import augment, decoded, matching, skipped, sources
from icm_jax.data import roles as roles_lib

# Splits of data sets by the part of their images on which a run is measured.
SPLITS = {"test": ("test", "evaluation"), "validation": ("validation",)}
_HELD_OUT_SPLITS = (*SPLITS["test"], *SPLITS["validation"])
# Share of the people, or of the examples, that is the test part of a data set
# without such a split.
_TEST_SHARE = 0.2


class Problem(NamedTuple):
  """Images, and the part that each of them has.

  The transformed, the canonical and the test part share no image. They share no
  person either if the data set says who is seen, except that transformed and
  canonical images may where `make_problem` was called with `share_people`.

  Attributes:
    name: name of the data set.
    images: all images.
    group_names: names of the mechanisms that groups of examples already carry;
      empty if image mechanisms act.
    group_N: int32, the group of every example in [0, M), or -1; for sampling
      and evaluation only.
    transformed_ids: images that experts see as transformed ones.
    canonical_ids: images that the discriminator sees as canonical ones.
    test_ids: images on which nothing is trained.
    clean_ids: images without a mechanism for the gate: those of the transformed
      side, before image mechanisms act on them; with groups, the validation
      split's canonical images, or if there are none, those of the canonical
      side.
    judge_ids: images on which classifiers of the evaluation may be trained,
      whatever their role: no image of the test or validation part, and no
      person of the test part.
    canonical_share: float64, probabilities with which `canonical_ids` are
      drawn; None if all are equally likely.
    skipped: names and reasons of pictures that were left out.
  """

  name: str
  images: decoded.Images
  group_names: tuple[str, ...]
  group_N: np.ndarray
  transformed_ids: np.ndarray
  canonical_ids: np.ndarray
  test_ids: np.ndarray
  clean_ids: np.ndarray
  judge_ids: np.ndarray
  canonical_share: np.ndarray | None = None
  skipped: Sequence[tuple[str, str]] = ()

  @property
  def shape_HWC(self) -> tuple[int, int, int]:
    return self.images.image_NHWC.shape[1:]

  @property
  def train_ids(self) -> np.ndarray:
    return np.sort(np.concatenate([self.transformed_ids, self.canonical_ids]))

  @property
  def num_unused(self) -> int:
    """Number of images that are in no part."""
    used = (self.transformed_ids, self.canonical_ids, self.test_ids)
    return len(self.images.image_NHWC) - len(np.unique(np.concatenate(used)))

  def counts(self) -> dict[str, int]:
    """Numbers of images by part; transformed and test images by group too."""
    counts = {
      "transformed": len(self.transformed_ids),
      "canonical": len(self.canonical_ids),
      "test": len(self.test_ids),
    }
    for part in ("transformed", "test") if self.group_names else ():
      group = self.group_N[getattr(self, f"{part}_ids")]
      for number, name in enumerate(self.group_names):
        counts[f"{part}/{name}"] = int((group == number).sum())
    return counts


def make_problem(
  data: sources.DataSet,
  *,
  seed: int,
  share_people: bool = False,
  matched: Mapping[str, str] | None = None,
  measured: str = "test",
) -> Problem:
  """Divides a data set into a transformed, a canonical and a test part.

  The test part is the data set's own, or else a fifth of its people (or of the
  examples of every role, if the data set does not say who is seen). It is the
  same for every seed. In the rest, image mechanisms act on a random half. If
  there are groups, all of their images are transformed ones; of people who are
  both in some group and canonical, a random half is used on each side.

  Args:
    data: the data set, with the groups to use, or with none.
    seed: seed of the halves.
    share_people: whether people may be both transformed and canonical, in
      different images. If there are few people, the discriminator would
      otherwise learn who is canonical.
    matched: rules by name; what holds for as many canonical images of a batch
      as for transformed ones, see `matching`. It needs groups.
    measured: key of `SPLITS`. "validation" makes the data set's validation
      split the test part, on which settings are chosen; its test split is then
      not used.

  Raises:
    InputError: a part has no image, or the sides cannot be matched.
  """
  if measured not in SPLITS:
    raise types.InputError(
      f"--config.data.measured must be one of {', '.join(SPLITS)}; got "
      f"{measured!r}."
    )
  num_images = len(data.images.image_NHWC)
  columns, groups = data.images.columns, tuple(data.roles.groups)
  role_N = roles_lib.assign(data.roles, columns, num_images)
  used_N = role_N != roles_lib.UNUSED
  unit_N = np.arange(num_images)
  if data.roles.person:
    unit_N = np.unique(columns[data.roles.person], return_inverse=True)[1]
  strata_N = np.zeros_like(role_N) if data.roles.person else role_N

  test_N = used_N & np.isin(columns["split"], SPLITS[measured])
  if not test_N.any() and measured != "test":
    raise types.InputError(
      f"{data.name} has no {measured} split; leave out --config.data.measured."
    )
  if not test_N.any():
    test_N = used_N & np.isin(unit_N, _held_out(unit_N, strata_N, used_N))
  judge_N = ~np.isin(columns["split"], _HELD_OUT_SPLITS)
  judge_N &= ~np.isin(unit_N, unit_N[test_N])
  train_N = used_N & judge_N

  source_N = train_N & (role_N != roles_lib.CANONICAL if groups else True)
  canonical_N = train_N & (role_N == roles_lib.CANONICAL)
  divided_N = np.arange(num_images) if share_people else unit_N
  both = np.intersect1d(divided_N[source_N], divided_N[canonical_N])
  order = _generator(seed, "halves").permutation(len(both))
  half = len(both) // 2
  source_N &= ~np.isin(divided_N, both[order[half:]])
  canonical_N &= ~np.isin(divided_N, both[order[:half]])
  clean_N = source_N
  if groups:
    spare_N = np.isin(columns["split"], SPLITS["validation"]) & ~test_N
    spare_N &= role_N == roles_lib.CANONICAL
    clean_N = spare_N if spare_N.any() else canonical_N
  problem = Problem(
    name=data.name,
    images=data.images,
    group_names=groups,
    group_N=np.where(role_N > 0, role_N - 1, -1) if groups else role_N * 0 - 1,
    transformed_ids=np.flatnonzero(source_N),
    canonical_ids=np.flatnonzero(canonical_N),
    test_ids=np.flatnonzero(test_N),
    clean_ids=np.flatnonzero(clean_N),
    judge_ids=np.flatnonzero(judge_N),
    skipped=data.skipped,
  )
  counts = problem.counts()
  if 0 in counts.values():
    left_out = ""
    if data.skipped:
      left_out = f" ({skipped.describe(skipped.by_reason(data.skipped))})"
    raise types.InputError(
      f"{data.name} has no image for some part: "
      f"{', '.join(f'{count} {part}' for part, count in counts.items())}"
      f"{left_out}. Choose other groups, or add images."
    )
  return _match(problem, matched) if matched else problem


def _match(problem: Problem, matched: Mapping[str, str]) -> Problem:
  group_N = problem.group_N[problem.transformed_ids]
  share = matching.canonical_share(
    matched,
    problem.images.columns,
    [
      problem.transformed_ids[group_N == group]
      for group in range(len(problem.group_names))
    ],
    problem.canonical_ids,
  )
  return problem._replace(canonical_share=share)


def _held_out(
  unit_N: np.ndarray, strata_N: np.ndarray, used_N: np.ndarray
) -> np.ndarray:
  """A share of each stratum, at least one unit; the same for every seed."""
  held = []
  for stratum in np.unique(strata_N[used_N]):
    units = np.unique(unit_N[used_N & (strata_N == stratum)])
    count = max(1, round(_TEST_SHARE * len(units)))
    held.append(_generator(0, "test").permutation(units)[:count])
  return np.concatenate(held) if held else np.array([], int)


def draw_ids(
  pool: np.ndarray, *, seed: int, name: str, step: int, batch_size: int
) -> np.ndarray:
  """Draws the examples of one step, as a pure function of the arguments.

  Every epoch is a new permutation of the pool. Examples after its last full
  batch are not used in that epoch.

  Args:
    pool: ids to draw from.
    seed: seed of the run.
    name: name of the use; different uses draw independently.
    step: number of the step, at least 0.
    batch_size: at most the size of the pool.

  Returns:
    [batch_size] ids, all different.

  Raises:
    InputError: the batch is larger than the pool.
  """
  if not 1 <= batch_size <= len(pool):
    raise types.InputError(
      f"The batch size must be at least 1 and at most {len(pool)}, the "
      f"number of images for {name!r}; got {batch_size}."
    )
  epoch, index = divmod(step, len(pool) // batch_size)
  order = _epoch_order(seed, name, epoch, len(pool))
  return pool[order[index * batch_size :][:batch_size]]


@dataclasses.dataclass(frozen=True)
class Process:
  """One of several hosts, each of which reads a part of every batch."""

  index: int
  count: int


ONLY_PROCESS = Process(0, 1)


class Raw(NamedTuple):
  """A batch before its sources are distorted; uint8."""

  source_BHWC: np.ndarray
  canonical_BHWC: np.ndarray


def draw_raw(
  problem: Problem,
  *,
  seed: int,
  step: int,
  batch_size: int,
  process: Process = ONLY_PROCESS,
) -> Raw:
  """Draws the images of one step, as a pure function of the arguments.

  If there are groups, each has the same share of a batch, as far as the batch
  size allows, whatever its number of images.

  Args:
    problem: images to draw from.
    seed: seed of the run.
    step: number of the step, at least 0.
    batch_size: size of the batch of all processes together.
    process: the process whose part of the batch is returned.

  Raises:
    InputError: the batch is larger than a part of the problem, or cannot be
      divided among the processes.
  """
  if batch_size % process.count:
    raise types.InputError(
      f"The batch size must be a multiple of the {process.count} processes; "
      f"got {batch_size}."
    )
  draw = functools.partial(
    draw_ids, seed=seed, step=step, batch_size=batch_size
  )
  if problem.group_names:
    source_ids = _draw_balanced(problem, seed, step, batch_size)
  else:
    source_ids = draw(problem.transformed_ids, name="transformed")
  if problem.canonical_share is None:
    canonical_ids = draw(problem.canonical_ids, name="canonical")
  else:
    canonical_ids = _generator(seed, "canonical", step).choice(
      problem.canonical_ids, batch_size, p=problem.canonical_share
    )
  share = batch_size // process.count
  mine = slice(process.index * share, (process.index + 1) * share)
  images_NHWC = problem.images.image_NHWC
  return Raw(images_NHWC[source_ids[mine]], images_NHWC[canonical_ids[mine]])


def _draw_balanced(
  problem: Problem, seed: int, step: int, batch_size: int
) -> np.ndarray:
  generator = _generator(seed, "groups", step)
  num_groups = len(problem.group_names)
  # Groups take turns across steps, because a batch may not divide evenly.
  group_B = (step * batch_size + np.arange(batch_size)) % num_groups
  group_N = problem.group_N[problem.transformed_ids]
  ids_B = np.empty(batch_size, np.int64)
  for group in range(num_groups):
    pool = problem.transformed_ids[group_N == group]
    slots = np.flatnonzero(group_B == group)
    again = len(slots) > len(pool)
    ids_B[slots] = generator.choice(pool, len(slots), replace=again)
  return generator.permutation(ids_B)


def batches(
  problem: Problem,
  *,
  seed: int,
  steps: range,
  batch_size: int,
  process: Process = ONLY_PROCESS,
  ahead: int = 2,
  place: Callable[[Raw], Any] = jax.device_put,
) -> Iterator[Raw]:
  """Yields the batches of consecutive steps, copied to the device in advance.

  Args:
    problem: images to draw from.
    seed: seed of the run.
    steps: the steps.
    batch_size: size of a batch of all processes together.
    process: the process whose part of every batch is returned.
    ahead: number of batches that are copied in advance.
    place: copies a batch to its devices.
  """
  waiting: collections.deque[Raw] = collections.deque()
  for step in steps:
    raw = draw_raw(
      problem, seed=seed, step=step, batch_size=batch_size, process=process
    )
    waiting.append(place(raw))
    if len(waiting) > ahead:
      yield waiting.popleft()
  yield from waiting


def make_batch(
  key: jax.Array,
  step: jax.Array,
  raw: Raw,
  mechanisms: tuple[mechanisms_lib.Mechanism, ...],
  augmentation: augment.Augmentation = augment.NONE,
) -> types.Batch:
  """Distorts the sources; a pure function to jit.

  Args:
    key: key of the run.
    step: [] int32, the number of the batch.
    raw: uint8 images.
    mechanisms: M mechanisms, of which one acts on each source; which one is not
      returned. Empty if sources carry a mechanism already.
    augmentation: range of variations of both sides before a mechanism acts.
  """
  source_BHWC, canonical_BHWC = (to_float(jnp.asarray(x)) for x in raw)
  if augmentation != augment.NONE:
    source_BHWC, canonical_BHWC = (
      augment.augment(rng.stream(key, name, step), x_BHWC, augmentation)
      for name, x_BHWC in (
        ("augment sources", source_BHWC),
        ("augment canonical", canonical_BHWC),
      )
    )
  if not mechanisms:
    return types.Batch(source_BHWC, canonical_BHWC)
  transformed_BHWC, _ = mechanisms_lib.apply_mixture(
    rng.stream(key, "mixture", step), source_BHWC, mechanisms
  )
  return types.Batch(transformed_BHWC, canonical_BHWC)


def to_float(x_BHWC: jax.Array) -> jax.Array:
  """Converts uint8 in [0, 255] to float32 in [0, 1]."""
  return x_BHWC.astype(jnp.float32) / 255.0


def _generator(seed: int, name: str, *more: int) -> np.random.Generator:
  return np.random.default_rng([seed, zlib.crc32(name.encode()), *more])


@functools.lru_cache(maxsize=8)
def _epoch_order(seed: int, name: str, epoch: int, size: int) -> np.ndarray:
  return _generator(seed, name, epoch).permutation(size)
