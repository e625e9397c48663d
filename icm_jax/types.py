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

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
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


class Relocation(NamedTuple):
  """When and how an idle expert is moved (`competition.relocation`).

  Attributes:
    every: steps between relocations; 0 turns them off.
    min_share: an expert whose recent share of wins is below this multiple of
      an equal share (1 / E) is idle; in [0, 1].
    max_share: only an expert whose share is above this multiple of an equal
      share is copied; at least 1.
    perturbation: standard deviation of the relative change of the copied
      parameters, without unit.
    alike: of two experts whose signatures are nearer to each other than this,
      in squared standard deviations of a score, one can be spared, and idle
      experts that are not moved retire. 0: nobody retires.
  """

  every: int
  min_share: float
  max_share: float
  perturbation: float
  alike: float = 0.0


class Setup(NamedTuple):
  """The parts of an update that do not change during a run.

  Attributes:
    expert: image to image, output float in [0, 1] of the input's shape.
    discriminator: image to logit, [B, H, W, C] -> [B]; without statistics.
    expert_tx: optimizer of one expert; it is mapped over the expert axis.
    discriminator_tx: optimizer of the discriminator.
    balance: handicap of a busy expert when winners are chosen, in logits per
      equal share of wins (1 / E) that it has beyond its own; 0 is the paper's
      plain argmax.
    signature: bonus of an expert whose images scored as this one does, when
      winners are chosen (`competition.signature`), in logits for a mean squared
      distance of 1 of standardised scores; 0 is the paper's rule.
    winner_weight: share of the discriminator's weight on outputs that goes to
      the winners' alone, in [0, 1]; 0 is the paper's equal weight.
    losers_learn: whether every expert learns from every image, so that there is
      no competition; an ablation.
    loss: adversarial loss by name, a key of `competition.losses.LOSSES`.
    r1: weight of the discriminator's squared slope at canonical images (R1).
    identity: weight of the winners' mean squared error on canonical images,
      which an expert should leave alone.
    criterion_identity: what this error of an expert counts against it when
      winners are chosen, in units of the score.
    criterion_cycle: the same for how much an expert changes its own output.
    average_steps: memory, in steps, of the averages of the parameters by which
      images are restored outside training; 0 restores by the parameters as they
      are.
    relocation: what happens to experts that win next to nothing.
    expert_map: "unroll", "vmap", or "auto" (see `competition.expert_axis`).
  """

  expert: Network
  discriminator: Network
  expert_tx: optax.GradientTransformation
  discriminator_tx: optax.GradientTransformation
  balance: float = 0.0
  signature: float = 0.0
  winner_weight: float = 0.0
  losers_learn: bool = False
  loss: str = "bce"
  r1: float = 0.0
  identity: float = 0.0
  criterion_identity: float = 0.0
  criterion_cycle: float = 0.0
  average_steps: float = 0.0
  relocation: Relocation = Relocation(0, 0.0, 1.0, 0.0)
  expert_map: str = "auto"


@chex.dataclass(frozen=True)
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
    win_share_E: [E] float32, share of recent images that each expert won; sums
      to 1.
    signature_EE: [E, E] float32, of every expert, the standardised scores of
      all experts for the images that it won of late.
    moved_step_E: [E] int32, the step at which it last became another's copy.
    retired_E: [E] bool, experts that win nothing until they are moved.
    average_experts_E: parameters of the experts, averaged over recent steps.
    average_discriminator: the same of the discriminator.
  """

  step: jax.Array
  key: jax.Array
  experts_E: PyTree
  expert_stats_E: PyTree
  expert_opt_E: optax.OptState
  discriminator: PyTree
  discriminator_opt: optax.OptState
  win_share_E: jax.Array
  signature_EE: jax.Array
  moved_step_E: jax.Array
  retired_E: jax.Array
  average_experts_E: PyTree
  average_discriminator: PyTree
