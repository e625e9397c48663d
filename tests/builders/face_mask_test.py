import io
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data import pictures
from icm_jax.data.builders import face_mask

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "face_mask"
ENTITY = "XML with a DTD or entities"


def annotation(*boxes: tuple, filename: str = "x.png") -> str:
  """A VOC file of boxes, each a class and four corners."""
  objects = "".join(
    f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
    f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
    for name, x0, y0, x1, y1 in boxes
  )
  return (
    f"\n<annotation><filename>{filename}</filename>{objects}</annotation>\n"
  )


def noise(width: int, height: int, channels: int = 4) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, channels), np.uint8)


class Tree:
  """A made-up data set in the original layout."""

  def __init__(self, root: pathlib.Path):
    self.root = root / "manual"
    self.data = root / "data"
    for name in ("images", "annotations"):
      (self.root / name).mkdir(parents=True)

  def add(self, stem: str, *boxes: tuple, image_HWC=None) -> pathlib.Path:
    """Adds a picture and its annotation; returns the picture's path."""
    path = self.root / "images" / f"{stem}.png"
    if image_HWC is None:
      image_HWC = noise(40, 30)
    PIL.Image.fromarray(image_HWC).save(path)
    self.annotate(stem, annotation(*boxes))
    return path

  def annotate(self, stem: str, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    (self.root / "annotations" / f"{stem}.xml").write_bytes(data)

  def builder(self) -> face_mask.FaceMask:
    return face_mask.FaceMask(manual_dir=self.root, data_dir=self.data)

  def prepare(self) -> tuple[list[dict], list]:
    """Examples and skips, both as a later run reads them."""
    self.builder().download_and_prepare()
    builder = self.builder()
    source = builder.as_data_source(
      split="train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    return list(source), [tuple(s) for s in builder.info.metadata["skipped"]]

  def assert_nothing_written(self) -> None:
    assert not [p for p in self.data.rglob("*") if p.is_file()]


@pytest.fixture
def tree(tmp_path):
  return Tree(tmp_path)


GOOD = ("with_mask", 0, 0, 16, 16)


def test_every_box_is_an_example(tree):
  image_HWC = noise(60, 50)
  tree.add(
    "maksssksksss1",
    ("without_mask", 20, 15, 40, 31),
    ("mask_weared_incorrect", 0, 34, 16, 50),
    image_HWC=image_HWC,
  )
  tree.add("maksssksksss0", GOOD)
  examples, skipped = tree.prepare()
  assert not skipped
  assert [e["file"].decode() for e in examples] == [
    "images/maksssksksss0.png#0",
    "images/maksssksksss1.png#0",
    "images/maksssksksss1.png#1",
  ]
  assert [e["condition"].decode() for e in examples] == [
    "with_mask",
    "without_mask",
    "mask_weared_incorrect",
  ]
  assert [int(e["label"]) for e in examples] == [0, 1, 2]
  corners = [
    [int(e[k]) for k in ("xmin", "ymin", "xmax", "ymax")] for e in examples
  ]
  assert corners[1:] == [[20, 15, 40, 31], [0, 34, 16, 50]]
  # 20 and a fifth of it on both ends; the second one moves into the corner.
  for example, (left, top, side) in zip(
    examples[1:], ((16, 9, 28), (0, 28, 22)), strict=True
  ):
    cut = PIL.Image.open(io.BytesIO(example["image"]))
    assert cut.format == "PNG"
    np.testing.assert_array_equal(
      np.asarray(cut), image_HWC[top : top + side, left : left + side]
    )


@pytest.mark.parametrize(
  "corners",
  [(0, 0, 40, 30), (0, 0, 100, 20), (80, 10, 100, 30), (41, 7, 58, 29)],
)
def test_squares_stay_inside_the_picture(corners):
  size = (100, 30)
  left, top, right, bottom = face_mask.square(corners, size)
  assert right - left == bottom - top > 0
  assert left >= 0
  assert top >= 0
  assert right <= size[0]
  assert bottom <= size[1]


@pytest.mark.parametrize(
  ("box", "reason"),
  [
    (("with_mask", 0, 0, 15, 30), "box smaller than 16 pixels"),
    (("with_mask", 0, 0, 41, 30), "box outside the image"),
    (("with_mask", -1, 0, 20, 20), "box outside the image"),
    (("with_mask", 0, 0, 20, 10**30), "box outside the image"),
    (("with_mask", 20, 0, 20, 20), "box of no area"),
    (("with_mask", 0, 20, 20, 5), "box of no area"),
    (("with_scarf", 0, 0, 20, 20), "unknown class"),
    (("", 0, 0, 20, 20), "unknown class"),
    (("with_mask", "", 0, 20, 20), "corners are not four whole numbers"),
    (("with_mask", "nan", 0, 20, 20), "corners are not four whole numbers"),
    (("with_mask", "0.5", 0, 20, 20), "corners are not four whole numbers"),
  ],
)
def test_boxes_that_cannot_be_used_are_named(tree, box, reason):
  tree.add("a", box, GOOD)
  examples, skipped = tree.prepare()
  assert [e["file"] for e in examples] == [b"images/a.png#1"]
  assert skipped == [("images/a.png#0", reason)]


def test_whole_numbers_may_have_a_decimal_point(tree):
  tree.add("a", ("with_mask", "2.0", " 3", "20.", "21.00"), GOOD)
  examples, skipped = tree.prepare()
  assert not skipped
  corners = [int(examples[0][k]) for k in ("xmin", "ymin", "xmax", "ymax")]
  assert corners == [2, 3, 20, 21]


def test_a_box_without_corners_is_named(tree):
  tree.add("a", GOOD)
  tree.add("b")
  tree.annotate(
    "b", "<annotation><object><name>with_mask</name></object></annotation>"
  )
  examples, skipped = tree.prepare()
  assert len(examples) == 1
  assert skipped == [("images/b.png#0", "corners are not four whole numbers")]


MALFORMED = {
  "empty": "",
  "truncated": annotation(GOOD)[:-20],
  "binary": b"\x89PNG\r\n\x1a\n\x00\x00",
  "not_utf8": b"<annotation>\xff\xfe</annotation>",
  "unknown_encoding": '<?xml version="1.0" encoding="x-no"?><annotation/>',
  "multi_byte": '<?xml version="1.0" encoding="gb2312"?><annotation/>',
  "undefined_entity": "<annotation>&none;</annotation>",
}
NO_BOX = {"no_object": "<annotation/>", "html": "<html><body/></html>"}
LAUGHS = "".join(
  f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9)
)  # A billion, were it expanded.
DTD = {
  "dtd": f"<!DOCTYPE annotation>{annotation(GOOD)}",
  "external_dtd": '<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><annotation/>',
  "billion_laughs": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><a>&l9;</a>',
}


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    pytest.param(text, reason, id=name)
    for reason, texts in (
      ("malformed XML", MALFORMED),
      ("no box", NO_BOX),
      (ENTITY, DTD),
    )
    for name, text in texts.items()
  ],
)
def test_annotations_that_cannot_be_used_are_named(tree, text, reason):
  tree.add("a", GOOD)
  tree.add("b", GOOD)
  tree.annotate("b", text)
  examples, skipped = tree.prepare()
  assert [e["file"] for e in examples] == [b"images/a.png#0"]
  assert skipped == [("annotations/b.xml", reason)]


def test_external_entities_are_never_read(tree, tmp_path):
  secret = tmp_path / "secret"
  secret.write_text("with_mask")
  tree.add("a", GOOD)
  tree.add("b")
  tree.annotate(
    "b",
    f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
    + annotation(("&x;", 0, 0, 16, 16)),
  )
  examples, skipped = tree.prepare()
  assert [e["file"] for e in examples] == [b"images/a.png#0"]
  assert skipped == [("annotations/b.xml", ENTITY)]


def test_the_file_name_inside_an_annotation_is_ignored(tree, tmp_path):
  PIL.Image.new("RGB", (40, 30)).save(tmp_path / "outside.png")
  image_HWC = noise(22, 22)
  tree.add("a", image_HWC=image_HWC)
  tree.annotate(
    "a",
    annotation(("with_mask", 0, 0, 16, 16), filename="../../outside.png"),
  )
  (example,), skipped = tree.prepare()
  assert not skipped
  np.testing.assert_array_equal(
    np.asarray(PIL.Image.open(io.BytesIO(example["image"]))), image_HWC
  )


def test_halves_of_a_pair_are_named_and_hidden_files_are_not(tree):
  tree.add("a", GOOD)
  tree.add("b", GOOD).unlink()
  tree.add("c", GOOD)
  (tree.root / "annotations" / "c.xml").unlink()
  (tree.root / "images" / "._a.png").write_bytes(b"x")
  (tree.root / "annotations" / "._a.xml").write_bytes(b"x")
  (tree.root / "images" / "Thumbs.db").write_bytes(b"x")
  examples, skipped = tree.prepare()
  assert [e["file"] for e in examples] == [b"images/a.png#0"]
  assert skipped == [
    ("annotations/b.xml", "no picture"),
    ("images/c.png", "no annotation"),
  ]


@pytest.mark.parametrize(
  ("damage", "reason"),
  [
    (lambda data: data[: len(data) // 2], "truncated or damaged"),
    (
      lambda data: data[:200] + bytes(400) + data[600:],
      "truncated or damaged",
    ),
    (lambda data: b"", "not a picture"),
    (lambda data: b"<html>not found</html>", "not a picture"),
  ],
)
def test_damaged_pictures_are_named_once(tree, damage, reason):
  tree.add("a", GOOD)
  path = tree.add("b", GOOD, GOOD)
  path.write_bytes(damage(path.read_bytes()))
  examples, skipped = tree.prepare()
  assert [e["file"] for e in examples] == [b"images/a.png#0"]
  assert skipped == [("images/b.png", reason)]


@pytest.mark.parametrize("pillow_limit", [None, 500])
def test_huge_pictures_are_refused(tree, monkeypatch, pillow_limit):
  tree.add("a", GOOD, image_HWC=noise(20, 20))
  tree.add("b", GOOD)
  monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
  monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", pillow_limit)
  examples, skipped = tree.prepare()
  assert [e["file"] for e in examples] == [b"images/a.png#0"]
  assert skipped == [("images/b.png", "too many pixels")]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "I;16"])
def test_every_kind_of_png_can_be_cut(tree, mode):
  path = tree.add("a", GOOD)
  PIL.Image.new(mode, (40, 30)).save(path)
  (example,), skipped = tree.prepare()
  assert not skipped
  assert PIL.Image.open(io.BytesIO(example["image"])).size == (22, 22)


def test_a_jpeg_under_the_name_of_a_png_can_be_cut(tree):
  path = tree.add("a", GOOD)
  PIL.Image.new("CMYK", (40, 30)).save(path, format="JPEG")
  (example,), skipped = tree.prepare()
  assert not skipped
  assert PIL.Image.open(io.BytesIO(example["image"])).mode == "RGB"


@pytest.mark.parametrize("name", ["images", "annotations"])
@pytest.mark.parametrize("message", ["is empty", "Missing"])
def test_missing_and_empty_folders_say_what_to_put_where(tree, name, message):
  tree.add("a", GOOD)
  folder = tree.root / name
  for path in folder.iterdir():
    path.unlink()
  if message == "Missing":
    folder.rmdir()
  with pytest.raises(types.InputError, match=message) as caught:
    tree.builder().download_and_prepare()
  assert str(folder) in str(caught.value)
  assert "annotations/maksssksksssN.xml" in str(caught.value)
  tree.assert_nothing_written()


def test_without_one_usable_face_nothing_is_written(tree):
  tree.add("a", ("with_mask", 0, 0, 5, 5))
  with pytest.raises(types.InputError, match="No face"):
    tree.builder().download_and_prepare()
  tree.assert_nothing_written()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no sample data in {SHARED}")
def test_the_real_sample(tmp_path):
  make = lambda: face_mask.FaceMask(manual_dir=SHARED, data_dir=tmp_path)
  make().download_and_prepare()
  builder = make()
  source = builder.as_data_source(
    split="train", decoders={"image": tfds.decode.SkipDecoding()}
  )
  skipped = builder.info.metadata["skipped"]
  assert {reason for _, reason in skipped} == {"box smaller than 16 pixels"}
  assert len(source) + len(skipped) == 190
  labels = np.bincount([int(example["label"]) for example in source])
  np.testing.assert_array_equal(labels, [86, 45, 18])
  view = pictures.View(size=32, channels=3)
  for example in source:
    assert pictures.read(example["image"], view).shape == (32, 32, 3)
