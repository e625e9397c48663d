"""Opens a run: its experts as functions, and images that they restore."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icm_jax import competition, types
from icm_jax.competition import chain_search
from icm_jax.training import run_folder, saved_run

if TYPE_CHECKING:
  import ml_collections
  import numpy.typing as npt

# Most images in one call of a compiled function.
BATCH_SIZE = 64
LEFT_ALONE = chain_search.NONE

Array = np.ndarray | jax.Array


# Values this close to [0, 1] are taken as its ends.
_ROUNDING = 1e-6


class Function(NamedTuple):
  """A network with its parameters.

  Attributes:
    apply: `apply(params, x_BHWC)`, jitted; x_BHWC is float32 in [0, 1].
    params: pytree of arrays: parameters and, of an expert, its statistics.
  """

  apply: Callable[[types.PyTree, jax.Array], jax.Array]
  params: types.PyTree

  def __call__(self, x_BHWC: npt.ArrayLike) -> jax.Array:
    return self.apply(self.params, jnp.asarray(x_BHWC))


class Restored(NamedTuple):
  """Images after the experts; NumPy arrays unless a jitted function made them.

  Attributes:
    restored_BHWC: float32 in [0, 1]; an image that was left alone as it was.
    winner_B: int32 in [0, E), the expert that was used; `LEFT_ALONE`, -1, for
      an image that was left alone.
    score_B: float32, the discriminator's logit for `restored_BHWC`; larger is
      more canonical.
    change_B: float32, by how much the best expert raises the score of the image
      as it was, in logits; negative if no expert does.
  """

  restored_BHWC: Array
  winner_B: Array
  score_B: Array
  change_B: Array


class Chained(NamedTuple):
  """Images after chains of at most L experts, as NumPy arrays.

  Attributes:
    restored_BHWC: float32 in [0, 1].
    expert_BL: int32 in [0, E), experts in the order of application;
      `LEFT_ALONE`, -1, after the end of the chain.
    score_B: float32, the discriminator's logit for `restored_BHWC`.
    change_B: float32, by how much the chain raised the score, in logits.
  """

  restored_BHWC: Array
  expert_BL: Array
  score_B: Array
  change_B: Array


@dataclasses.dataclass(frozen=True)
class Learned:
  """What a run has learned.

  For a program that is to be compiled as a whole, jit `competition.restore`
  with `state` and `setup`.

  Attributes:
    workdir: folder of the run.
    config: config of the run.
    steps: completed updates of the checkpoint.
    shape_HWC: shape of the run's images.
    mechanisms: M names.
    result: what `result.json` says; None if the run measured another
      checkpoint, or none.
    setup: networks, optimizers and rules of the competition.
    state: state of the run, with the parameters that restore images.
  """

  workdir: pathlib.Path
  config: ml_collections.ConfigDict
  steps: int
  shape_HWC: tuple[int, int, int]
  mechanisms: tuple[str, ...]
  result: dict[str, Any] | None
  setup: types.Setup
  state: types.TrainState

  def restore(
    self,
    images: npt.ArrayLike,
    *,
    margin: float | None = None,
    floor: float | None = None,
  ) -> Restored:
    """Restores images by the expert that makes each most canonical.

    Args:
      images: [B, H, W, C] of the run's `shape_HWC`, with any B: uint8, or
        floats in [0, 1]; from NumPy or any device.
      margin: leaves images alone that no expert raises by more than this many
        logits; None restores all.
      floor: leaves images alone whose best output has a score below this many
        logits, see `find_floor`; None has no such bound.

    Raises:
      InputError: the images have another shape, dtype or range.
    """
    x_BHWC = self._floats(images)
    restored = self._by_batches(self._restore, x_BHWC)
    alone_B = _left_alone(restored, margin, floor)
    if not alone_B.any():
      return restored
    return Restored(
      np.where(alone_B[:, None, None, None], x_BHWC, restored.restored_BHWC),
      np.where(alone_B, np.int32(LEFT_ALONE), restored.winner_B),
      restored.score_B - np.where(alone_B, restored.change_B, np.float32(0)),
      restored.change_B,
    )

  def chain(
    self,
    images: npt.ArrayLike,
    *,
    margin: float = 0.0,
    floor: float | None = None,
    max_length: int | None = None,
    width: int | None = None,
  ) -> Chained:
    """Restores images that several mechanisms may have distorted in a row.

    Args:
      images: as for `restore`.
      margin: logits by which every further expert must raise the score.
      floor: as for `restore`, of the chain's output.
      max_length: L, most experts in a chain, at least 1; None is the config's.
      width: number of chains that the beam search keeps, at least 1; None is
        the config's.

    Raises:
      InputError: the images have another shape, dtype or range, or a number is
        below 1.
    """
    c = self.config.chains
    max_length = c.max_length if max_length is None else max_length
    width = c.width if width is None else width
    if max_length < 1 or width < 1:
      raise types.InputError(
        "A chain's max_length and the search's width must be at least 1; got "
        f"{max_length} and {width}."
      )
    find = functools.partial(
      self._search, max_length=max_length, width=width, margin=float(margin)
    )
    x_BHWC = self._floats(images)
    found = self._by_batches(find, x_BHWC)
    alone_B = _left_alone(found, None, floor)
    if not alone_B.any():
      return found
    return Chained(
      np.where(alone_B[:, None, None, None], x_BHWC, found.restored_BHWC),
      np.where(alone_B[:, None], np.int32(LEFT_ALONE), found.expert_BL),
      found.score_B - np.where(alone_B, found.change_B, np.float32(0)),
      np.where(alone_B, np.float32(0), found.change_B),
    )

  @functools.cached_property
  def experts(self) -> tuple[Function, ...]:
    """E functions from images [B, H, W, C] to images of the same shape."""

    @jax.jit
    def apply(params, x_BHWC):
      expert = self.setup.expert.apply
      return expert(params["params"], params["stats"], x_BHWC, train=False)[0]

    params_E = {
      "params": self.state.experts_E,
      "stats": self.state.expert_stats_E,
    }
    return tuple(
      Function(apply, jax.tree.map(lambda a_E, e=e: a_E[e], params_E))
      for e in range(self.num_experts)
    )

  @functools.cached_property
  def discriminator(self) -> Function:
    """A function from images [B, H, W, C] to logits [B], float32."""

    @jax.jit
    def apply(params, x_BHWC):
      return self.setup.discriminator.apply(params, {}, x_BHWC, train=False)[0]

    return Function(apply, self.state.discriminator)

  @property
  def num_experts(self) -> int:
    """E, retired experts included; these never win."""
    return jax.tree.leaves(self.state.experts_E)[0].shape[0]

  @property
  def mechanism_of(self) -> tuple[str, ...]:
    """What each of the E experts undoes: names of mechanisms, by commas.

    They are the mechanisms most of whose test images the expert won; "" where
    there are none, or the run has measured no wins.
    """
    names: list[list[str]] = [[] for _ in range(self.num_experts)]
    if self.result:
      for name, expert in zip(
        self.mechanisms, np.argmax(self.result["wins"], axis=0), strict=True
      ):
        names[expert].append(name)
    return tuple(", ".join(found) for found in names)

  @property
  def margin(self) -> float:
    """The margin that the run measured, for `restore` and `chain`.

    Raises:
      InputError: it measured none.
    """
    if not self.result or self.result["margin"] is None:
      raise types.InputError(
        f"{self.workdir} has measured no margin. Find one by find_margin, with "
        "clean images that were not among the run's canonical ones."
      )
    return self.result["margin"]

  def find_margin(
    self, clean_images: npt.ArrayLike, *, changed: float = 0.01
  ) -> float:
    """The smallest margin at which few clean images are changed.

    Args:
      clean_images: as for `restore`; undistorted, and not among the canonical
        images of the run, which its discriminator has memorised.
      changed: share of these images that may be changed, in [0, 1].
    """
    change_B = np.asarray(self.restore(clean_images).change_B)
    if not len(change_B):
      raise types.InputError("find_margin needs at least one clean image.")
    return chain_search.margin(change_B, changed=changed)

  def find_floor(
    self, clean_images: npt.ArrayLike, *, below: float = 0.05
  ) -> float:
    """The score that few clean images stay below.

    An image that some expert improves, and that still looks less canonical than
    this, was distorted by something that no expert has learned.

    Args:
      clean_images: as for `find_margin`.
      below: share of these images whose score is below it, in [0, 1].
    """
    images = self._floats(clean_images)
    if not len(images):
      raise types.InputError("find_floor needs at least one clean image.")
    score_B = self._by_batches(lambda _, x: self.discriminator(x), images)
    return float(np.quantile(score_B, below))

  @functools.cached_property
  def _restore(self):
    return jax.jit(functools.partial(restore, setup=self.setup))

  @functools.cached_property
  def _search(self):
    def search(state, x_BHWC, **options):
      found = chain_search.search(state, x_BHWC, setup=self.setup, **options)
      before_B = competition.score(state, x_BHWC, setup=self.setup)
      return Chained(
        found.restored_BHWC,
        found.expert_BL,
        found.score_B,
        found.score_B - before_B,
      )

    return jax.jit(search, static_argnames=("max_length", "width"))

  def _by_batches(self, function, x_BHWC):
    """Applies a jitted function of a state and images, on the host.

    Batches have a power of two of images, so that few sizes are compiled.
    """
    parts = []
    for start in range(0, max(len(x_BHWC), 1), BATCH_SIZE):
      part_BHWC = x_BHWC[start : start + BATCH_SIZE]
      count = len(part_BHWC)
      missing = (1 << max(count - 1, 0).bit_length()) - count
      filled_BHWC = np.pad(part_BHWC, ((0, missing), (0, 0), (0, 0), (0, 0)))
      done = jax.device_get(function(self.state, filled_BHWC))
      parts.append(jax.tree.map(lambda a, n=count: a[:n], done))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

  def _floats(self, images):
    """Images as float32 in [0, 1], checked."""
    x = np.asarray(images)
    if x.ndim != 4 or x.shape[1:] != self.shape_HWC:
      raise types.InputError(
        f"Expected images of shape [B, {', '.join(map(str, self.shape_HWC))}], "
        f"which the run was trained on; got {list(x.shape)}."
      )
    if x.dtype == np.uint8:
      return x.astype(np.float32) / 255
    # As of NumPy 2, bfloat16 is no floating-point dtype to NumPy itself.
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise types.InputError(
        f"Expected images as uint8, or as floats in [0, 1]; got {x.dtype}."
      )
    x = x.astype(np.float32)
    # Rounding may leave [0, 1], as 1 - 255 * (1 / 255) does in float32.
    if x.size and not (x.min() >= -_ROUNDING and x.max() <= 1 + _ROUNDING):
      raise types.InputError(
        "Expected floats in [0, 1]; got values from "
        f"{x.min():.4g} to {x.max():.4g}. Scale the images, or give uint8."
      )
    return x.clip(0.0, 1.0)


def _left_alone(
  found: Restored | Chained, margin: float | None, floor: float | None
) -> np.ndarray:
  """Which images are left as they were, [B] bool."""
  alone_B = np.zeros(len(found.score_B), bool)
  if margin is not None:
    alone_B |= ~(np.asarray(found.change_B) > margin)
  if floor is not None:
    alone_B |= np.asarray(found.score_B) < floor
  return alone_B


def restore(
  state: types.TrainState, x_BHWC: jax.Array, *, setup: types.Setup
) -> Restored:
  """What `Learned.restore` computes without a margin, to be jitted.

  Args:
    state: read, not donated.
    x_BHWC: float32 in [0, 1].
    setup: bound before jitting.
  """
  found = competition.restore(state, x_BHWC, setup=setup)
  score_B = found.score_EB.max(axis=0)
  before_B = competition.score(state, x_BHWC, setup=setup)
  return Restored(
    found.restored_BHWC, found.winner_B, score_B, score_B - before_B
  )


def load(
  workdir: str | os.PathLike[str], *, steps: int | None = None
) -> Learned:
  """Opens a run of images; its data set is not needed.

  Args:
    workdir: folder of the run.
    steps: completed updates of the checkpoint; None is the newest one.

  Raises:
    InputError: the folder holds no run of images, or no such checkpoint; or
      its result is damaged.
  """
  folder = pathlib.Path(workdir).expanduser()
  opened = saved_run.open_run(folder, steps=steps)
  state = opened.setup.through("test_state", opened.saved.state)
  result = _read_result(folder)
  if result and result["steps"] != int(state.step):
    result = None
  return Learned(
    workdir=folder,
    config=opened.config,
    steps=int(state.step),
    shape_HWC=tuple(opened.saw["image_shape"]),
    mechanisms=tuple(opened.saw["mechanisms"]),
    result=result,
    setup=opened.setup,
    state=state,
  )


def _read_result(folder: pathlib.Path) -> dict[str, Any] | None:
  result = run_folder.read_result(folder)
  if result and (missing := {"data", "wins"} - result.keys()):
    raise types.InputError(
      f"{folder / run_folder.RESULT} is damaged: it has no "
      f"{', '.join(sorted(missing))}. Write it again with experiments.evaluate."
    )
  # Measures that not every version, or not every run, makes.
  optional = dict.fromkeys(("margin", "classifier", "psnr_db"))
  return {**optional, **result} if result else None
