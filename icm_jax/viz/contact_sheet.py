"""Contact sheets: rows of a data set's pictures, and a page around them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from icm_jax.viz import html, letters

PER_ROW = 16

# Bounds on the side of a drawn picture, in pixels. Smaller pictures are
# enlarged by an integer factor, so that each pixel stays sharp; larger ones are
# reduced.
_LEAST, _MOST = 56, 96
_GAP, _MARGIN = 2, 5
_WHITE, _BLACK, _GREY = 255, 34, 110

_STYLE = (
  html.STYLE
  + """
.words th:last-child, .words td:last-child { text-align: left; }
pre { white-space: pre-wrap; }
"""
)


class Row(NamedTuple):
  """A row of pictures of one kind.

  Attributes:
    name: name of the kind.
    note: a note, such as a count.
    image_BHWC: uint8, 0 to `PER_ROW` pictures; H = W, C = 1 or 3.
  """

  name: str
  note: str
  image_BHWC: np.ndarray


class Table(NamedTuple):
  """A table of the page.

  Attributes:
    title: title of the table.
    head: a name for every column.
    lines: cells as text.
    words: whether the last column contains words instead of numbers.
  """

  title: str
  head: Sequence[str]
  lines: Sequence[Sequence[str]]
  words: bool = False


def draw(rows: Sequence[Row]) -> bytes:
  """Draws a contact sheet.

  Args:
    rows: rows from top to bottom; all pictures have the same shape.

  Returns:
    A PNG file: names and notes on the left, pictures on the right.
  """
  _, side, _, channels = rows[0].image_BHWC.shape
  cell = _cell(side)
  font_size = max(13, cell // 5)
  name_font = PIL.ImageFont.truetype(letters.FONT, font_size)
  note_font = PIL.ImageFont.truetype(letters.FONT, 0.85 * font_size)
  rows = [row._replace(name=letters.drawable(row.name)) for row in rows]
  texts = [(row.name, name_font) for row in rows]
  texts += [(row.note, note_font) for row in rows]
  label = max(font.getlength(text) for text, font in texts)
  label = min(math.ceil(label), 3 * cell) + 3 * _MARGIN
  width = max((len(row.image_BHWC) for row in rows), default=0)
  width = label + max(width, 1) * (cell + _GAP) - _GAP
  height = len(rows) * (cell + _GAP) - _GAP
  sheet = PIL.Image.new(
    "L" if channels == 1 else "RGB", (width, height), _grey(_WHITE, channels)
  )
  pen = PIL.ImageDraw.Draw(sheet)
  for number, row in enumerate(rows):
    top = number * (cell + _GAP)
    for text, font, level, anchor, dy in (
      (row.name, name_font, _BLACK, "ls", -0.15),
      (row.note, note_font, _GREY, "lt", 0.25),
    ):
      pen.text(
        (_MARGIN, top + cell / 2 + dy * font_size),
        _shorten(text, font, label - 3 * _MARGIN),
        fill=_grey(level, channels),
        font=font,
        anchor=anchor,
      )
    for index, image_HWC in enumerate(row.image_BHWC):
      left = label + index * (cell + _GAP)
      sheet.paste(_resize(image_HWC, cell), (left, top))
  buffer = io.BytesIO()
  sheet.save(buffer, format="PNG", optimize=True)
  return buffer.getvalue()


def page(
  title: str,
  headline: str,
  *,
  sheet: bytes,
  caption: str,
  tables: Sequence[Table],
  details: Mapping[str, str],
) -> str:
  """Makes a self-contained HTML page.

  Args:
    title: heading of the page.
    headline: a sentence below the heading.
    sheet: PNG file of the contact sheet.
    caption: description of the sheet.
    tables: tables below the sheet; tables without lines are left out.
    details: long texts by title; empty ones are left out.
  """
  sections = [
    f"<h1>{html.text(title)}</h1>",
    f'<p class="headline">{html.text(headline)}</p>',
    f"<p>{html.text(caption)}</p>",
    html.image(sheet, "png", caption),
  ]
  for table in tables:
    if table.lines:
      sections.append(f"<h2>{html.text(table.title)}</h2>")
      markup = html.table(table.head, table.lines)
      sections.append(
        f'<div class="words">{markup}</div>' if table.words else markup
      )
  sections += [
    html.details(name, text) for name, text in details.items() if text
  ]
  return html.page(title, sections, style=_STYLE)


def _cell(side: int) -> int:
  """Returns the side of a drawn picture, in pixels."""
  if side < _LEAST:
    return side * -(-_LEAST // side)
  return min(side, _MOST)


def _resize(image_HWC: np.ndarray, cell: int) -> PIL.Image.Image:
  channels = image_HWC.shape[-1]
  image = PIL.Image.fromarray(image_HWC[..., 0] if channels == 1 else image_HWC)
  if image.width < cell:
    return image.resize((cell, cell), PIL.Image.Resampling.NEAREST)
  return image.resize((cell, cell), PIL.Image.Resampling.LANCZOS)


def _grey(level: int, channels: int) -> int | tuple[int, ...]:
  return level if channels == 1 else (level,) * channels


def _shorten(
  text: str,
  font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont,
  width: int,
) -> str:
  """Shortens a text to a width in pixels."""
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(f"{text}...") > width:
    text = text[:-1]
  return f"{text}..."
