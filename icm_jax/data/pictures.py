"""Decodes picture files of any format to small uint8 arrays."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
import PIL.Image

# A file with more pixels is treated as a decompression bomb.
MAX_PIXELS = 64_000_000


_ORIENTATION = 0x0112  # The tag of EXIF.
# Tags of TIFF: bits of a sample, compression (1 is none), colours (6 is YCbCr),
# planes (1 is one), subsampling; and where the strips are.
_PLAIN_YCBCR = {258: (8, 8, 8), 259: 1, 262: 6, 284: 1, 530: (1, 1)}
_OFFSETS, _LENGTHS = 273, 279
_UPRIGHT = {
  2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
  3: PIL.Image.Transpose.ROTATE_180,
  4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
  5: PIL.Image.Transpose.TRANSPOSE,
  6: PIL.Image.Transpose.ROTATE_270,
  7: PIL.Image.Transpose.TRANSVERSE,
  8: PIL.Image.Transpose.ROTATE_90,
}
# Bits that cameras and scanners measure, and store in 16.
_BITS = (8, 10, 12, 14, 16)


class Unreadable(Exception):
  """A picture cannot be used; like causes have the same text."""


class Frame(NamedTuple):
  """A square relative to a reference square, in fractions of the latter's side.

  Attributes:
    left: distance of the left edge from the reference's left edge.
    top: distance of the upper edge from the reference's upper edge.
    side: length of the side.
  """

  left: float = 0.0
  top: float = 0.0
  side: float = 1.0


class View(NamedTuple):
  """How a picture becomes an array: crop, resize, pad; lengths in pixels.

  Attributes:
    size: height and width of the result.
    channels: 1 (grey) or 3 (RGB).
    crop: side of the centred square that is cut out first; 0 is the largest
      square. A picture with a shorter side is cut to its largest square.
    frame: part that is kept, relative to that square. It may extend beyond the
      square and beyond the picture, whose edge is then repeated.
    content: side to which the frame is then resized; zeros on all sides fill
      the rest of `size`. 0 is `size`.
    invert: whether dark and light are exchanged before the zeros are added, for
      ink on paper.
    max_pixels: pictures with more pixels are refused.
  """

  size: int
  channels: int
  crop: int = 0
  frame: Frame = Frame()
  content: int = 0
  invert: bool = False
  max_pixels: int = MAX_PIXELS


def read(data: bytes, view: View) -> np.ndarray:
  """Decodes a picture.

  A camera's rotation (EXIF) is undone, transparent pixels are drawn on black,
  palettes are resolved, and an animation is reduced to its first frame.
  Resizing is antialiased. 16 bits are reduced to their 8 most significant ones,
  and so are fewer bits in 16, such as the 12 of many cameras: their number is
  the least of 8, 10, 12, 14 and 16 that holds every pixel.

  Args:
    data: a file of any format that Pillow reads.
    view: crop, size and channels of the result.

  Returns:
    [size, size, channels] uint8.

  Raises:
    Unreadable: the file is no picture, truncated, damaged, or too large.
  """
  image = load(data, max_pixels=view.max_pixels)
  flat = _flatten(image, "L" if view.channels == 1 else "RGB")
  side = min(flat.size)
  if view.crop:
    side = min(side, view.crop)
  left = (flat.width - side) // 2 + round(view.frame.left * side)
  top = (flat.height - side) // 2 + round(view.frame.top * side)
  side = round(view.frame.side * side)
  content = view.content or view.size
  square = _cut(flat, left, top, side)
  if side != content:
    square = square.resize((content, content), PIL.Image.Resampling.BICUBIC)
  array = np.asarray(square).reshape(content, content, view.channels)
  if view.invert:
    array = 255 - array
  before = (view.size - content) // 2
  after = view.size - content - before
  return np.pad(array, ((before, after), (before, after), (0, 0)))


def _cut(image: PIL.Image.Image, left: int, top: int, side: int):
  """Cuts out a square; outside the picture, the picture's edge is repeated."""
  right, bottom = left + side - image.width, top + side - image.height
  before, after = (max(0, -top), max(0, -left)), (max(0, bottom), max(0, right))
  if any(before + after):
    array = np.asarray(image)
    edges = [*zip(before, after, strict=True), (0, 0)][: array.ndim]
    image = PIL.Image.fromarray(np.pad(array, edges, mode="edge"))
  left, top = left + before[1], top + before[0]
  return image.crop((left, top, left + side, top + side))


def load(data: bytes, *, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
  """Decodes a picture, or the first frame of several, and undoes its rotation.

  Args:
    data: a file of any format that Pillow reads.
    max_pixels: pictures with more pixels are refused.

  Raises:
    Unreadable: the file is no picture, truncated, damaged, or too large.
  """
  try:
    return _decode(data, max_pixels)
  except Unreadable:
    if whole := _with_end_marker(data, max_pixels):
      return whole
    raise


def _decode(data: bytes, max_pixels: int) -> PIL.Image.Image:
  """Decodes a picture as `load` does."""
  try:
    with warnings.catch_warnings():
      # Damaged metadata is no reason to refuse a picture, and `max_pixels`
      # replaces Pillow's warning about large ones.
      warnings.simplefilter("ignore")
      with PIL.Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > max_pixels:
          raise Unreadable("too many pixels")
        plain = _plain_ycbcr(image, data)
        if plain is None:
          image.load()
          plain = image
        turn = _UPRIGHT.get(_orientation(image) or 1)
        return plain.copy() if turn is None else plain.transpose(turn)
  except Unreadable:
    raise
  except PIL.UnidentifiedImageError as error:
    raise Unreadable("not a picture") from error
  except PIL.Image.DecompressionBombError as error:
    raise Unreadable("too many pixels") from error
  # Decoders raise almost anything on damaged files.
  except Exception as error:
    raise Unreadable("truncated or damaged") from error


def _plain_ycbcr(image: PIL.Image.Image, data: bytes) -> PIL.Image.Image | None:
  """Decodes a TIFF of YCbCr without compression, which Pillow 12 cannot."""
  tags = getattr(image, "tag_v2", {})
  if any(tags.get(tag) != value for tag, value in _PLAIN_YCBCR.items()):
    return None
  strips = zip(tags[_OFFSETS], tags[_LENGTHS], strict=True)
  pixels = b"".join(data[start : start + length] for start, length in strips)
  planes = PIL.Image.frombytes("RGB", image.size, pixels).split()
  return PIL.Image.merge("YCbCr", planes)


def _orientation(image: PIL.Image.Image) -> int | None:
  """The rotation of the camera; None if the metadata do not say it."""
  try:
    value = image.getexif().get(_ORIENTATION)
  # Damaged metadata raise almost anything.
  except Exception:
    return None
  return value if isinstance(value, int) else None


def _with_end_marker(data: bytes, max_pixels: int) -> PIL.Image.Image | None:
  """Decodes a JPEG that lacks nothing but its end; None if more is missing.

  Whatever is put between the file and the marker of its end makes no difference
  if all pixels are there.
  """
  if not data.startswith(b"\xff\xd8"):
    return None
  data = data.rstrip(b"\xff")
  try:
    one, other = (
      _decode(data + byte * 64 + b"\xff\xd9", max_pixels)
      for byte in (b"\x00", b"\x5a")
    )
  except Unreadable:
    return None
  return one if one.tobytes() == other.tobytes() else None


def _flatten(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
  """Converts any mode to grey or RGB, transparent pixels to black."""
  if image.mode == mode and "transparency" not in image.info:
    return image
  if image.mode.startswith("I"):  # convert() would clip the 16 bits.
    array = np.asarray(image)
    bits = next((b for b in _BITS if array.max() < 1 << b), None)
    if bits is None or array.min() < 0:
      raise Unreadable("pixels are not in the range of 16 bits")
    array = (array >> (bits - 8)).astype(np.uint8)
    return PIL.Image.fromarray(array).convert(mode)
  if image.mode == "F":
    raise Unreadable("pixels are floating-point numbers")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    black = PIL.Image.new("RGBA", image.size, (0, 0, 0, 255))
    image = PIL.Image.alpha_composite(black, image)
  try:
    return image.convert(mode)
  except ValueError as error:
    raise Unreadable(f"colours of the kind {image.mode}") from error
