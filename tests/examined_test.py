"""What a run makes of one picture, as markup."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from icm_jax.evaluation import detection
from icm_jax.learned import examine
from icm_jax.viz import examined

NAMES = ("a<b", "", "c")


def stage(score, faces=None):
  return examine.Stage(np.full((4, 8, 3), 0.5, np.float32), score, faces)


def make(**fields):
  """An expert of three wins, and two act in a row."""
  plain = examine.Examined(
    steps=(examine.Step("right"), examine.Step("noise", 0.25)),
    distorted=(stage(3.0), stage(0.0), stage(-1.0)),
    outputs=(stage(1.0), stage(-np.inf), stage(2.0)),
    winner=2,
    change=3.0,
    margin=0.5,
    experts=(2, 0),
    undone=(stage(2.0), stage(2.5)),
  )
  return plain._replace(**fields)


def test_the_markup_is_whole_and_needs_no_other_file():
  # HTML leaves some elements open, XML none.
  text = examined.draw(make(), NAMES).replace("<br>", "<br/>")
  text = re.sub(r"(<img [^>]*)>", r"\1/>", text).replace("&rarr;", "")
  root = ElementTree.fromstring(text)
  pictures = root.findall(".//img")
  # Three before, three outputs, and the chain with what it begins with.
  assert len(pictures) == 3 + 3 + 3
  assert all(p.get("src").startswith("data:image/png") for p in pictures)
  assert {p.get("alt") for p in pictures} >= {
    "the picture",
    "right",
    "noise, 0.25",
    "0: a<b",
    "1: unknown",
    "expert 2: c",
  }
  (winner,) = root.findall(".//figure[@class='wins']")
  assert "2: c" in "".join(winner.itertext())
  bars = [b.get("style") for b in root.findall(".//div[@class='bar']/div")]
  assert bars == ["width:0%", "width:0%", "width:100%"]
  words = "".join(root.itertext())
  assert "Expert 2 wins, which undoes c, and gains 3.00 logits" in words
  assert "retired" in words
  assert "http" not in text


def test_the_gate_is_explained():
  found = make(change=0.25, experts=(), undone=())
  text = examined.draw(found, NAMES)
  assert "<b>Left alone</b>" in text
  assert "(2, c) gains 0.25 logits; the gate asks for more than 0.5." in text
  assert "left alone." in text


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (3.0, "Detected before: no faces; after: 1 face."),
    (0.0, "Detected before: no faces."),
  ],
)
def test_faces_are_framed_and_counted(change, words):
  box_N4 = np.array([[2, 1, 10, 3]], np.float32)
  one = detection.Faces(box_N4, np.ones(1, np.float32))
  none = detection.Faces(box_N4[:0], np.ones(0, np.float32))
  found = make(
    change=change,
    distorted=(stage(3.0), stage(0.0), stage(-1.0, none)),
    outputs=(stage(1.0), stage(0.0), stage(2.0, one)),
  )
  text = examined.draw(found, NAMES)
  assert words in text
  # A face may reach beyond the picture.
  assert text.count('class="face"') == 1
  assert "left:25.0%;top:25.0%;width:75.0%;height:50.0%" in text


def test_a_message_is_escaped():
  assert "a &lt;b&gt;" in examined.message("a <b>")
