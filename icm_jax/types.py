"""Records that every layer shares, and the letters that name array axes.

An array's name ends in its axes (`x_BHWC`, `score_EB`); a pytree whose every
leaf has a leading expert axis ends in `_E`.

  E  experts
  B  examples of a batch
  H, W, C  height, width, channels of an image
  M  mechanisms
  K  classes of the evaluation classifier, attributes that a probe judges
  P  people of the training part; a probe tells which of them a face resembles
  N  examples of a data set
  G, S  groups of won images and the slots of a group (`competition.backward`)
  T  steps of a sequence, or of a run that is drawn
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
  """The user's input is wrong; the message says what to change."""


class Network(NamedTuple):
  """A network as two pure functions, from any neural network library.

  Attributes:
    init: `init(key) -> (params, stats)`, two pytrees of arrays.
    apply: `apply(params, stats, x_BHWC, *, train) -> (y, stats)`. A network
      without running statistics returns the empty `stats` that it was given,
      and each of its outputs may depend on its own image only. A network with
      statistics (batch normalisation) may mix the images of a batch when
      `train` is True. A network whose outputs are random in training keeps its
      random key among the statistics.
  """

  init: Callable[[jax.Array], tuple[PyTree, PyTree]]
  apply: Callable[..., tuple[jax.Array, PyTree]]


class Batch(NamedTuple):
  """The images of one update. They carry no name or number of a mechanism.

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
  """The state of a run: everything that an update changes.

  Attributes:
    step: [] int32, completed updates.
    key: [] typed PRNG key of the run; updates fold it and never replace it.
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
    """Returns a copy with other values in some fields."""
    return dataclasses.replace(self, **changes)

  def remember(self, name: str, memory: PyTree) -> Self:
    """Returns a copy in which one remedy has another memory.

    Args:
      name: name of the remedy.
      memory: its new memory.
    """
    return self.replace(memory={**self.memory, name: memory})


class Assignment(NamedTuple):
  """Which expert won which image.

  Attributes:
    winner_B: int32 in [0, E), the expert that won each image.
    wins_E: int32, number of images that each expert won; sums to B.
  """

  winner_B: jax.Array
  wins_E: jax.Array


def _unchanged(value: Any, *_: Any) -> Any:
  return value


class Remedy(NamedTuple):
  """A change of the paper's step, as a record of hooks.

  The first argument of every hook is a value, which the hook returns changed or
  as it is; the default is the latter. The step passes each value through the
  hooks of all remedies, in the order of `Setup.remedies`. Hooks get the state
  before the update; `after` and the hooks that follow it get the state after.

  Attributes:
    name: key of the remedy's memory in `TrainState.memory`.
    init: `(memory, state, setup) -> memory`. Adds the remedy's first memory to
      that of all remedies before it.
    merit: `(merit_EB, state, seen) -> merit_EB`. Changes merits, which start as
      the discriminator's scores, float32. The expert with the largest merit
      wins an image.
    weight: `(weight_EB, won) -> weight_EB`. Changes the weights of outputs in
      the discriminator's loss, which start as 1 / E.
    objective: `(objective, discriminator, seen) -> objective`. Adds a term to
      the discriminator's loss: a scalar that starts as 0 and is differentiated
      with respect to `discriminator`; `seen` has no scores yet.
    cotangent: `(cotangent, state, seen, won) -> cotangent`. Changes the
      gradient of the experts' loss with respect to the outputs that they learn
      from: the winners' outputs, [B, H, W, C], or all, [E, B, H, W, C].
    gradient: `(grads_E, state, seen, won) -> grads_E`. Changes the gradients of
      the experts' parameters.
    after: `(state, seen, won) -> state`. Changes the state after the update.
    copied: `(memory, state, moved_E, donor_E) -> memory`. Changes the memory of
      all remedies when experts have become copies of others. `state` has the
      copies; `moved_E`, bool, marks the experts that are copies, and `donor_E`,
      int32, names their donors (other entries have no meaning).
    report: `(metrics, state) -> metrics`. Adds metrics of the update.
    test_state: `state -> state`. Chooses the parameters that restore images
      outside training.
    test_merit: `(merit_EB, state, seen) -> merit_EB`. As `merit`, outside
      training, where `seen` has no canonical images.
  """

  name: str
  init: Callable[..., Any] = _unchanged
  merit: Callable[..., Any] = _unchanged
  weight: Callable[..., Any] = _unchanged
  objective: Callable[..., Any] = _unchanged
  cotangent: Callable[..., Any] = _unchanged
  gradient: Callable[..., Any] = _unchanged
  after: Callable[..., Any] = _unchanged
  copied: Callable[..., Any] = _unchanged
  report: Callable[..., Any] = _unchanged
  test_state: Callable[..., Any] = _unchanged
  test_merit: Callable[..., Any] = _unchanged


class Setup(NamedTuple):
  """The parts of an update that do not change during a run.

  Attributes:
    expert: network from images to images of the same shape, float in [0, 1].
    discriminator: network from images to logits, [B, H, W, C] -> [B]; it must
      have no running statistics.
    expert_tx: optimizer of one expert; it is mapped over the expert axis.
    discriminator_tx: optimizer of the discriminator.
    remedies: changes of the paper's step (`competition.remedies`); () is the
      paper.
    losers_learn: whether every expert learns from every image, which removes
      the competition; for ablations.
    losers: number of losers of an image from whose outputs the discriminator
      learns, drawn at random; None is all, as in the paper. Not used in
      `paper_step`.
    expert_map: how experts are mapped over: a name of
      `competition.expert_axis.FORMS`, or "auto".
  """

  expert: Network
  discriminator: Network
  expert_tx: optax.GradientTransformation
  discriminator_tx: optax.GradientTransformation
  remedies: tuple[Remedy, ...] = ()
  losers_learn: bool = False
  losers: int | None = None
  expert_map: str = "auto"

  def through(self, hook: str, value: Any, *args: Any) -> Any:
    """Passes a value through one hook of all remedies, in their order.

    Args:
      hook: name of a field of `Remedy`.
      value: first argument of the hook.
      *args: further arguments of the hook.
    """
    for remedy in self.remedies:
      value = getattr(remedy, hook)(value, *args)
    return value


class Seen(NamedTuple):
  """The part of an update that remedies can see.

  On several devices, images and outputs are those of this device; scores,
  merits, weights and winners are those of all images and experts on every
  device. Means over a device's images are averaged over devices. For anything
  else, `icm_jax.devices` combines or divides arrays.

  Attributes:
    setup: setup of the run.
    batch: images of the update.
    y_EBHWC: every expert's output for every transformed image.
    score_EB: float32, the discriminator's logits for these outputs; None in the
      hook `objective`, which runs before they are known.
  """

  setup: Setup
  batch: Batch
  y_EBHWC: jax.Array
  score_EB: jax.Array | None = None
