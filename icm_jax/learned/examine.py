"""What a run makes of one picture: every expert's output, the gate, the chain.

It is what `experiments.demo` shows. Pictures are read as those of the run were,
and may be distorted by the run's mechanisms first, several in a row.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from icm_jax import competition, mechanisms, rng, types
from icm_jax.data import pictures, sources
from icm_jax.evaluation import detection
from icm_jax.learned import loading, picture_files
from icm_jax.training import build

# Data sets whose digits lie where MNIST puts them.
_CENTRED = ("mnist", "mnist_5k")


class Step(NamedTuple):
  """A mechanism that distorts the picture.

  Attributes:
    name: one of `Examiner.mechanisms`.
    strength: in [0, 1], see `mechanisms.weakened`.
  """

  name: str
  strength: float = 1.0


class Stage(NamedTuple):
  """A picture on its way: as it was read, after a mechanism, after an expert.

  Attributes:
    image_HWC: float32 in [0, 1].
    score: the discriminator's logit; larger is more canonical.
    faces: faces that the detector finds; None if it was not asked.
  """

  image_HWC: np.ndarray
  score: float
  faces: detection.Faces | None = None


class Examined(NamedTuple):
  """What a run makes of one picture.

  Attributes:
    steps: mechanisms that distorted the picture, in their order.
    distorted: the picture as it was read, and after every step.
    outputs: what each of the E experts makes of the last of these.
    winner: the expert in [0, E) whose output has the largest score.
    change: logits by which the winner raises the score.
    margin: logits by which an expert must raise it, or the gate leaves the
      picture alone.
    experts: the chain of experts that undoes the steps, in their order; () if
      the picture is left alone.
    undone: the picture after every expert of the chain.
  """

  steps: tuple[Step, ...]
  distorted: tuple[Stage, ...]
  outputs: tuple[Stage, ...]
  winner: int
  change: float
  margin: float
  experts: tuple[int, ...]
  undone: tuple[Stage, ...]

  @property
  def is_left_alone(self) -> bool:
    """Whether the gate leaves the picture as it is."""
    return not self.change > self.margin


class Examiner:
  """Shows pictures to a run.

  Attributes:
    learned: the run.
    mechanisms: the run's mechanisms by name; empty if these are groups of its
      pictures, which cannot be applied to others.
    view: how pictures are read.
    detect: a detector of faces, or None.
  """

  def __init__(
    self,
    learned: loading.Learned,
    *,
    detect: detection.Detector | None = None,
  ):
    self.learned = learned
    self.view = picture_files.view_of(learned)
    self.detect = detect
    names, functions = build.make_mechanisms(learned.config)
    is_groups = names != learned.mechanisms
    self.mechanisms: dict[str, mechanisms.Mechanism] = (
      {} if is_groups else dict(zip(names, functions, strict=True))
    )
    self._look = jax.jit(functools.partial(_look, setup=learned.setup))

  def read(self, data: bytes) -> np.ndarray:
    """Decodes a picture as those of the run were.

    Args:
      data: a file of any format.

    Returns:
      [H, W, C] uint8.

    Raises:
      InputError: the file is no picture, truncated, damaged or too large.
    """
    return _read(data, self.view)

  def read_drawing(self, data: bytes) -> np.ndarray:
    """The same for a drawing in white on black, of any size and at any place.

    For a run on MNIST it is scaled and centred as the digits of MNIST were.
    """
    # The pictures of the run may have been black on white.
    return _read(
      data,
      self.view._replace(invert=False),
      centre=self.learned.config.data.name in _CENTRED,
    )

  def examine(
    self,
    image_HWC: np.ndarray,
    steps: Sequence[Step] = (),
    *,
    margin: float = 0.0,
    seed: int = 0,
  ) -> Examined:
    """Distorts a picture, and shows it to every expert.

    Args:
      image_HWC: uint8, of `read`.
      steps: mechanisms that distort it, in their order.
      margin: logits by which experts must raise the score of the picture, or it
        is left alone; every expert of a chain must.
      seed: seed of random mechanisms.

    Raises:
      InputError: a step's name or strength is none.
    """
    learned = self.learned
    images = [image_HWC.astype(np.float32) / 255]
    for number, step in enumerate(steps):
      if step.name not in self.mechanisms:
        raise types.InputError(
          f"The run has no mechanism {step.name!r}; known: "
          f"{', '.join(self.mechanisms) or 'none'}."
        )
      mechanism = mechanisms.weakened(self.mechanisms[step.name], step.strength)
      key = rng.stream(jax.random.key(seed), "examine", number)
      images.append(np.asarray(mechanism(key, jnp.asarray(images[-1]))))
    x_1HWC = images[-1][None]
    output_EHWC, score_E = jax.device_get(self._look(learned.state, x_1HWC))
    winner = int(score_E.argmax())
    expert_L = learned.chain(x_1HWC, margin=margin).expert_BL[0]
    experts = tuple(map(int, expert_L[expert_L != loading.LEFT_ALONE]))
    undone_1HWC = [x_1HWC]
    for expert in experts:
      undone_1HWC.append(np.asarray(learned.experts[expert](undone_1HWC[-1])))
    distorted = [self._stage(x_HWC) for x_HWC in images]
    outputs = list(map(Stage, output_EHWC, map(float, score_E)))
    undone = [self._stage(x_1HWC[0]) for x_1HWC in undone_1HWC[1:]]
    if self.detect:
      places = [(distorted, 0), (outputs, winner)]
      places += [(distorted, -1)] * bool(steps)
      # Detection takes most of the time, and a chain is often the winner alone.
      is_winner = experts == (winner,)
      places += [(undone, -1)] * (bool(undone) and not is_winner)
      found = self.detect(
        np.stack([stages[index].image_HWC for stages, index in places])
      )
      for (stages, index), faces in zip(places, found, strict=True):
        stages[index] = stages[index]._replace(faces=faces)
      if is_winner:
        undone[-1] = outputs[winner]
    return Examined(
      steps=tuple(steps),
      distorted=tuple(distorted),
      outputs=tuple(outputs),
      winner=winner,
      change=outputs[winner].score - distorted[-1].score,
      margin=margin,
      experts=experts,
      undone=tuple(undone),
    )

  def _stage(self, image_HWC: np.ndarray) -> Stage:
    score_B = self.learned.discriminator(image_HWC[None])
    return Stage(image_HWC, float(score_B[0]))


def shows_faces(learned: loading.Learned) -> bool:
  """Whether a run's pictures are faces, as far as its config says."""
  source = sources.SOURCES.get(learned.config.data.name)
  # Digits and letters have a frame of zeros around them, faces have none.
  is_known_face = source is not None and "content" not in source.view
  return is_known_face or learned.config.detection.examples > 0


def _centre(data: bytes) -> bytes:
  """Scales and moves a drawing as the digits of MNIST were.

  A digit fits into a square of 20 pixels, and its centre of mass is the middle
  of 28x28 pixels (LeCun et al., "Gradient-based learning applied to document
  recognition", 1998, Sec. III A).
  """
  drawing = pictures.load(data).convert("RGBA")
  black = PIL.Image.new("RGBA", drawing.size, "black")
  drawing = PIL.Image.alpha_composite(black, drawing).convert("L")
  digit = np.zeros((28, 28), np.uint8)
  if box := drawing.getbbox():
    drawing = drawing.crop(box)
    scale = 20 / max(drawing.size)
    width, height = (max(1, round(scale * side)) for side in drawing.size)
    drawing = drawing.resize((width, height), PIL.Image.Resampling.BICUBIC)
    small_HW = np.asarray(drawing)
    top = _start(small_HW.sum(axis=1))
    left = _start(small_HW.sum(axis=0))
    digit[top : top + height, left : left + width] = small_HW
  buffer = io.BytesIO()
  PIL.Image.fromarray(digit).save(buffer, format="PNG")
  return buffer.getvalue()


def _start(mass_N: np.ndarray) -> int:
  """Where N of 28 pixels begin whose centre of mass is the middle."""
  middle = np.average(np.arange(len(mass_N)) + 0.5, weights=mass_N + 1e-9)
  return int(np.clip(round(14 - middle), 0, 28 - len(mass_N)))


def _read(
  data: bytes, view: pictures.View, *, centre: bool = False
) -> np.ndarray:
  try:
    return pictures.read(_centre(data) if centre else data, view)
  except pictures.Unreadable as error:
    raise types.InputError(f"This picture is left out: {error}.") from error


def _look(
  state: types.TrainState, x_1HWC: jax.Array, *, setup: types.Setup
) -> tuple[jax.Array, jax.Array]:
  """Outputs [E, H, W, C] and scores [E] of all experts, for one image."""
  found = competition.restore(state, x_1HWC, setup=setup)
  return found.output_EBHWC[:, 0], found.score_EB[:, 0]
