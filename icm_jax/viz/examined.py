"""What a run makes of one picture, as a part of a page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import PIL.Image

from icm_jax.evaluation import detection
from icm_jax.learned import examine
from icm_jax.viz import html

STYLE = """
.examined h3 { font-size: 1rem; font-weight: 600; margin: 1.2rem 0 .5rem; }
.examined p { margin: 0 0 .3rem; }
.examined .verdict { font-size: 1.15rem; }
.examined .row { display: flex; flex-wrap: wrap; gap: .6rem; }
.examined .experts { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(6.4rem, 30%), 1fr)); }
.examined figure { margin: 0; padding: .3rem; width: 6.4rem;
  box-sizing: border-box; border: 2px solid transparent; border-radius: .4rem;
  font-size: .8rem; line-height: 1.3; }
.examined .experts figure { width: auto; max-width: 7.4rem; }
.examined .picture { position: relative; }
.examined img { display: block; width: 100%; margin: 0; background: #000;
  image-rendering: pixelated; outline: 1px solid #8886; }
.examined .face { position: absolute; border: 2px solid #2fbf71;
  box-sizing: border-box; }
.examined figcaption { overflow-wrap: anywhere; padding-top: .2rem; }
.examined .bar { height: .25rem; margin-top: .2rem; background: #8886; }
.examined .bar div { height: 100%; background: currentcolor; }
.examined .wins { border-color: #e8590c; }
.examined .arrow { padding-top: 2.1rem; font-size: 1.3rem; opacity: .6; }
.examined .hint { font-size: .85rem; opacity: .75; }
"""


def draw(examined: examine.Examined, mechanism_of: Sequence[str]) -> str:
  """Returns markup, for a page that contains `STYLE`.

  Args:
    examined: what a run makes of a picture.
    mechanism_of: what each of the E experts undoes, as of `loading.Learned`.
  """
  names = [name or "unknown" for name in mechanism_of]
  sections = [
    _verdict(examined, names),
    "<h3>What the experts see</h3>",
    _row(
      [
        _figure(stage, caption)
        for stage, caption in zip(
          examined.distorted,
          ["the picture", *map(_step, examined.steps)],
          strict=True,
        )
      ]
    ),
    "<h3>What every expert makes of it</h3>",
    '<p class="hint">The discriminator scores every output, in logits; a '
    "larger score looks more like a canonical picture.</p>",
    _experts(examined, names),
    "<h3>The chain of experts that undoes it</h3>",
  ]
  if examined.experts:
    after = zip(examined.undone, examined.experts, strict=True)
    sections.append(
      _row(
        [
          _figure(examined.distorted[-1], "what the experts see"),
          *(_figure(stage, f"expert {e}: {names[e]}") for stage, e in after),
        ]
      )
    )
  else:
    sections.append("<p>No chain raises the score: it is left alone.</p>")
  return f'<div class="examined">{"".join(sections)}</div>'


def message(words: str) -> str:
  """Returns the same part of a page with words only."""
  return (
    f'<div class="examined"><p class="verdict">{html.text(words)}</p></div>'
  )


def _verdict(examined: examine.Examined, names: Sequence[str]) -> str:
  winner, change = examined.winner, examined.change
  name = html.text(names[winner])
  if examined.is_left_alone:
    text = (
      f"<b>Left alone</b>: the best expert ({winner}, {name}) gains "
      f"{change:.2f} logits; the gate asks for more than {examined.margin:g}."
    )
  else:
    text = (
      f"<b>Expert {winner} wins</b>, which undoes <b>{name}</b>, and gains "
      f"{change:.2f} logits."
    )
  before, after = examined.distorted[-1].faces, examined.outputs[winner].faces
  if before is not None:
    text += f"<br>Detected before: {_count(before)}"
    text += "." if examined.is_left_alone else f"; after: {_count(after)}."
  return f'<p class="verdict" data-winner="{winner}">{text}</p>'


def _experts(examined: examine.Examined, names: Sequence[str]) -> str:
  """A figure for each expert, with bars between the least and largest score."""
  scores = [stage.score for stage in examined.outputs]
  known = [score for score in scores if math.isfinite(score)]
  least, most = min(known), max(known)
  figures = []
  for expert, stage in enumerate(examined.outputs):
    share = 0.0
    if math.isfinite(stage.score):
      share = (stage.score - least) / max(most - least, 1e-9)
    figures.append(
      _figure(
        stage,
        f"{expert}: {names[expert]}",
        wins=expert == examined.winner,
        below=f'<div class="bar"><div style="width:{share:.0%}"></div></div>',
      )
    )
  return f'<div class="experts">{"".join(figures)}</div>'


def _step(step: examine.Step) -> str:
  return step.name if step.strength == 1 else f"{step.name}, {step.strength:g}"


def _row(figures: Sequence[str]) -> str:
  arrow = '<span class="arrow">&rarr;</span>'
  return f'<div class="row">{arrow.join(figures)}</div>'


def _figure(
  stage: examine.Stage, caption: str, *, wins: bool = False, below: str = ""
) -> str:
  score = "retired"
  if math.isfinite(stage.score):
    score = f"score {stage.score:+.2f}"
  boxes = ""
  if stage.faces is not None:
    boxes = _boxes(stage.faces, stage.image_HWC.shape)
    score += f"<br>{_count(stage.faces)}"
  return (
    f'<figure class="{"wins" * wins}"><div class="picture">'
    f"{html.image(_png(stage.image_HWC), 'png', caption)}{boxes}</div>"
    f"<figcaption><b>{html.text(caption)}</b><br>{score}{below}</figcaption>"
    "</figure>"
  )


def _boxes(faces: detection.Faces, shape_HWC: tuple[int, ...]) -> str:
  """Frames of faces, whose places are in percent of the picture."""
  height, width, _ = shape_HWC
  scale_4 = 100 / np.array([width, height, width, height])
  boxes = []
  for box_4 in np.clip(faces.box_N4 * scale_4, 0, 100):
    left, top, right, bottom = box_4
    boxes.append(
      f'<div class="face" style="left:{left:.1f}%;top:{top:.1f}%;'
      f'width:{right - left:.1f}%;height:{bottom - top:.1f}%"></div>'
    )
  return "".join(boxes)


def _count(faces: detection.Faces | None) -> str:
  count = 0 if faces is None else len(faces.score_N)
  return f"{count or 'no'} face{'s' * (count != 1)}"


def _png(image_HWC: np.ndarray) -> bytes:
  y_HWC = np.round(255 * image_HWC).astype(np.uint8)
  image = PIL.Image.fromarray(y_HWC[..., 0] if y_HWC.shape[-1] == 1 else y_HWC)
  buffer = io.BytesIO()
  image.save(buffer, format="PNG")
  return buffer.getvalue()
