"""Records that every layer shares, and the letters that name array axes.

An array's name ends in its axes (`x_BHWC`, `score_EB`); a pytree whose every
leaf has a leading expert axis ends in `_E`.

  E  experts
  B  examples of a batch
  H, W, C  height, width, channels of an image
  M  mechanisms
  K  classes of the evaluation classifier, attributes that a probe judges
  P  people of the training part, whom a probe finds a face to be like
  N  examples of a data set
  G, S  groups of winners and the slots of a group (`competition.winners`)
  T  steps: of a sequence, or of a run that is drawn
  F, O  features of a sequence's inputs and outputs
  R, D, A  recurrent independent mechanisms, features of each, attention heads

Images are float32 in [0, 1] unless a name or docstring says uint8. Keys are
typed (`jax.random.key`); a function that takes a key consumes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import optax

PyTree = Any
Metrics = dict[str, jax.Array]


class InputError(ValueError):
  """The user's input is at fault: what was expected, what came, the fix."""


class Network(NamedTuple):
  """A network as two pure functions, the seam to any neural network library.

  Attributes:
    init: `init(key) -> (params, stats)`, two pytrees of arrays.
    apply: `apply(params, stats, x_BHWC, *, train) -> (y, stats)`. A network
      without running statistics returns the empty `stats` it was given, and
      must treat every image on its own: an output may depend on its own image
      only. One with statistics (batch normalisation) may mix a batch's images
      when `train` is True. One whose outputs are random in training keeps what
      it draws from among them.
  """

  init: Callable[[jax.Array], tuple[PyTree, PyTree]]
  apply: Callable[..., tuple[jax.Array, PyTree]]


class Batch(NamedTuple):
  """What one update sees. No mechanism's name or number is in it.

  Attributes:
    transformed_BHWC: float32 in [0, 1], images that some mechanism distorted.
    canonical_BHWC: float32 in [0, 1], undistorted images, none of which is the
      source of a transformed one.
  """

  transformed_BHWC: jax.Array
  canonical_BHWC: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that an update changes, and nothing else.

  Attributes:
    step: [] int32, completed updates.
    key: [] typed PRNG key of the run; folded, never advanced.
    experts_E: parameters of the experts.
    expert_stats_E: running statistics of the experts; may be empty.
    expert_opt_E: optimizer state of the experts.
    discriminator: parameters of the discriminator.
    discriminator_opt: optimizer state of the discriminator.
    memory: what each remedy remembers, by its name; empty without remedies.
  """

  step: jax.Array
  key: jax.Array
  experts_E: PyTree
  expert_stats_E: PyTree
  expert_opt_E: PyTree
  discriminator: PyTree
  discriminator_opt: PyTree
  memory: dict[str, PyTree]

  def replace(self, **changes: Any) -> Self:
    """A copy with other values in some fields."""
    return dataclasses.replace(self, **changes)

  def remember(self, name: str, memory: PyTree) -> Self:
    """A copy in which one remedy remembers something else."""
    return self.replace(memory={**self.memory, name: memory})


class Assignment(NamedTuple):
  """Which expert took which image.

  Attributes:
    winner_B: int32 in [0, E).
    wins_E: int32, images taken by each expert; sums to B.
  """

  winner_B: jax.Array
  wins_E: jax.Array


def _unchanged(value: Any, *_: Any) -> Any:
  return value


class Remedy(NamedTuple):
  """A change of the paper's step, as a record of hooks.

  Every hook takes a value first and returns it, changed or not; by default it
  is unchanged. The step passes each value through the hooks of all remedies, in
  the order of `Setup.remedies`. The state is that before the update, except for
  `after` and what follows it.

  Attributes:
    name: key of the remedy's memory in `TrainState.memory`.
    init: `(memory, state, setup) -> memory`. Adds what the remedy remembers to
      the memory of all remedies before it.
    merit: `(merit_EB, state, seen) -> merit_EB`. The expert with the largest
      merit wins an image; merits start as the discriminator's scores, float32.
    weight: `(weight_EB, won) -> weight_EB`. Weights of the outputs in the
      discriminator's loss; they start as 1 / E.
    objective: `(objective, discriminator, seen) -> objective`. The part of the
      discriminator's loss beside the paper's, a scalar that starts as 0. It is
      differentiated in `discriminator`; `seen` has no scores yet.
    gradient: `(grads_E, state, seen, won) -> grads_E`. Gradients of the
      experts.
    after: `(state, seen, won) -> state`. The state after the update.
    copied: `(memory, state, moved_E, donor_E) -> memory`. The memory of all
      remedies after experts became copies of others; `state` is that after it,
      `moved_E` bool, and `donor_E` int32, which counts where moved.
    report: `(metrics, state) -> metrics`. The metrics of the update.
    test_state: `state -> state`. The state that restores images outside
      training.
    test_merit: `(merit_EB, state) -> merit_EB`. As `merit`, outside training.
  """

  name: str
  init: Callable[..., Any] = _unchanged
  merit: Callable[..., Any] = _unchanged
  weight: Callable[..., Any] = _unchanged
  objective: Callable[..., Any] = _unchanged
  gradient: Callable[..., Any] = _unchanged
  after: Callable[..., Any] = _unchanged
  copied: Callable[..., Any] = _unchanged
  report: Callable[..., Any] = _unchanged
  test_state: Callable[..., Any] = _unchanged
  test_merit: Callable[..., Any] = _unchanged


class Setup(NamedTuple):
  """The parts of an update that do not change during a run.

  Attributes:
    expert: image to image, output float in [0, 1] of the input's shape.
    discriminator: image to logit, [B, H, W, C] -> [B]; without statistics.
    expert_tx: optimizer of one expert; it is mapped over the expert axis.
    discriminator_tx: optimizer of the discriminator.
    remedies: changes of the paper's step (`competition.remedies`); () is the
      paper.
    losers_learn: True lets every expert learn from every image, so that there
      is no competition; an ablation.
    expert_map: "unroll", "vmap", or "auto" (see `competition.expert_axis`).
  """

  expert: Network
  discriminator: Network
  expert_tx: optax.GradientTransformation
  discriminator_tx: optax.GradientTransformation
  remedies: tuple[Remedy, ...] = ()
  losers_learn: bool = False
  expert_map: str = "auto"

  def through(self, hook: str, value: Any, *args: Any) -> Any:
    """Passes a value through one hook of all remedies, in their order."""
    for remedy in self.remedies:
      value = getattr(remedy, hook)(value, *args)
    return value


class Seen(NamedTuple):
  """What a remedy can see of an update.

  Attributes:
    setup: of the run.
    batch: of the update.
    y_EBHWC: what every expert made of every transformed image.
    score_EB: float32, the discriminator's logits for these; None in hooks that
      are part of computing them.
  """

  setup: Setup
  batch: Batch
  y_EBHWC: jax.Array
  score_EB: jax.Array | None = None
