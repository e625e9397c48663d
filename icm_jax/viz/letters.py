"""Names as the font of figures and contact sheets can draw them."""

from __future__ import annotations

import functools
import pathlib

import matplotlib
from matplotlib import ft2font

# It comes with matplotlib, which uses it too, and has more letters than the
# font of Pillow.
FONT = pathlib.Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


@functools.cache
def _known() -> frozenset[int]:
  return frozenset(ft2font.FT2Font(str(FONT)).get_charmap())


def drawable(text: str) -> str:
  """A text in which the code replaces each character that the font lacks.

  Such characters, emoji and Chinese letters among them, would all be drawn as
  the same empty box, and two names could no longer be told apart.
  """
  return "".join(c if ord(c) in _known() else f"[U+{ord(c):04X}]" for c in text)
