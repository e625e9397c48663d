"""Pictures of every kind become small uint8 arrays, or say why not."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from icm_jax.data import pictures

SQUARE = pictures.View(size=8, channels=3)


def encode(image, kind="PNG", **kwargs) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, kind, **kwargs)
  return buffer.getvalue()


def gradient(width, height):
  """Grey, brighter to the right and downwards."""
  rows, columns = np.mgrid[:height, :width]
  return PIL.Image.fromarray((rows * 10 + columns).astype(np.uint8))


def noise():
  rng = np.random.default_rng(0)
  return PIL.Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8))


@pytest.mark.parametrize(
  "kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"]
)
def test_common_formats_are_read(kind):
  data = encode(PIL.Image.new("RGB", (8, 8), (200, 100, 50)), kind)
  array = pictures.read(data, SQUARE)
  assert array.shape == (8, 8, 3)
  assert array.dtype == np.uint8
  assert np.abs(array.mean(axis=(0, 1)) - (200, 100, 50)).max() < 6


def test_the_middle_square_is_cut_out():
  image = gradient(16, 8)
  view = pictures.View(size=8, channels=1)
  array = pictures.read(encode(image), view)
  np.testing.assert_array_equal(array[..., 0], np.asarray(image)[:, 4:12])
  tight = pictures.View(size=4, channels=1, crop=4)
  array = pictures.read(encode(image), tight)
  np.testing.assert_array_equal(array[..., 0], np.asarray(image)[2:6, 6:10])
  small = pictures.View(size=6, channels=1, crop=100)  # Larger than it.
  assert pictures.read(encode(image), small).shape == (6, 6, 1)


def test_a_frame_moves_and_reaches_beyond_the_picture():
  image = gradient(16, 8)
  view = pictures.View(size=4, channels=1, frame=pictures.Frame(0.25, -0.5, 1))
  moved = view._replace(crop=4)  # A picture of 4x4 in the middle,
  array = pictures.read(encode(image), moved)  # and now 1 right, 2 up.
  np.testing.assert_array_equal(array[..., 0], np.asarray(image)[0:4, 7:11])
  wide = pictures.View(
    size=16, channels=3, frame=pictures.Frame(-0.75, -0.5, 2)
  )
  array = pictures.read(encode(image), wide)
  edge_HW = np.pad(np.asarray(image), ((4, 4), (2, 0)), mode="edge")[:, :16]
  np.testing.assert_array_equal(array, np.stack([edge_HW] * 3, axis=-1))


def test_resizing_is_antialiased():
  stripes = np.zeros((64, 64), np.uint8)
  stripes[:, ::2] = 255
  view = pictures.View(size=8, channels=1)
  array = pictures.read(encode(PIL.Image.fromarray(stripes)), view)
  assert 120 < array[2:-2, 2:-2].min() <= array[2:-2, 2:-2].max() < 136


def test_content_is_padded_in_the_middle_and_inverted():
  view = pictures.View(size=7, channels=1, content=4, invert=True)
  array = pictures.read(encode(PIL.Image.new("1", (4, 4), 0)), view)
  assert array[1:5, 1:5].min() == 255
  assert array.sum() == 16 * 255


def test_rotation_by_the_camera_is_undone():
  image = gradient(8, 8)
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # To be turned by a quarter, clockwise.
  view = pictures.View(size=8, channels=1)
  array = pictures.read(encode(image, exif=exif), view)
  np.testing.assert_array_equal(array[..., 0], np.rot90(image, -1))


def test_transparent_pixels_lie_on_black():
  image = PIL.Image.new("RGBA", (8, 8), (200, 100, 50, 255))
  image.putpixel((0, 0), (255, 255, 255, 0))
  array = pictures.read(encode(image), SQUARE)
  assert array[0, 0].tolist() == [0, 0, 0]
  assert array[1, 1].tolist() == [200, 100, 50]
  palette = PIL.Image.new("P", (8, 8), 1)
  palette.putpalette([255, 255, 255, 10, 20, 30])
  palette.putpixel((3, 3), 0)
  array = pictures.read(encode(palette, transparency=0), SQUARE)
  assert array[3, 3].tolist() == [0, 0, 0]
  assert array[0, 0].tolist() == [10, 20, 30]


def test_sixteen_bits_keep_their_upper_half():
  deep = np.array([[0, 256, 25600, 65535]], np.uint16).repeat(4, axis=0)
  view = pictures.View(size=4, channels=1)
  array = pictures.read(encode(PIL.Image.fromarray(deep)), view)
  assert array[0, :, 0].tolist() == [0, 1, 100, 255]
  assert pictures.read(encode(PIL.Image.fromarray(deep)), SQUARE).shape == (
    8,
    8,
    3,
  )


@pytest.mark.parametrize(
  ("most", "expected"),
  [
    (255, [0, 63, 255]),
    (1023, [0, 63, 255]),
    (4095, [0, 63, 255]),
    (0, [0] * 3),
  ],
)
def test_fewer_bits_in_sixteen_are_no_darkness(most, expected):
  deep = np.array([[0, most // 4, most]], np.uint16).repeat(3, axis=0)
  view = pictures.View(size=3, channels=1)
  array = pictures.read(encode(PIL.Image.fromarray(deep), "TIFF"), view)
  assert array[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [-1, 65_536, 2**31 - 1])
def test_other_whole_numbers_are_refused(value):
  data = encode(PIL.Image.fromarray(np.full((4, 4), value, np.int32)), "TIFF")
  with pytest.raises(pictures.Unreadable, match="in the range of 16 bits"):
    pictures.read(data, SQUARE)


def with_exif(*entries) -> bytes:
  """A JPEG, 16 wide and 8 high, with EXIF of tag, type, count and value."""
  data = encode(gradient(16, 8), "JPEG")
  body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
  body += b"".join(struct.pack("<HHII", *entry) for entry in entries)
  body += b"\0" * 4
  return (
    data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
  )


@pytest.mark.parametrize(
  ("entries", "size"),
  [
    ([(0x112, 3, 1, 6)], (8, 16)),
    ([(0x112, 3, 1, 6), (0x11A, 2, 4, 0x636261)], (8, 16)),  # Text of a number.
    ([(0x112, 3, 1, 6), (0x11A, 5, 1, 90_000)], (8, 16)),  # Beyond the file.
    ([(0x112, 3, 1, 6), (0x8825, 4, 1, 2**31 - 1)], (8, 16)),  # No such place.
    ([(0x112, 2, 4, 0x786973)], (16, 8)),
    ([(0x112, 3, 1, 9)], (16, 8)),
  ],
)
def test_only_the_rotation_matters_of_metadata(entries, size):
  assert pictures.load(with_exif(*entries)).size == size


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_rotation_is_undone(turn):
  exif = PIL.Image.Exif()
  exif[0x112] = turn
  image = gradient(16, 8)
  expected = PIL.ImageOps.exif_transpose(
    PIL.Image.open(io.BytesIO(encode(image, exif=exif)))
  )
  found = pictures.load(encode(image, exif=exif))
  np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_may_lack_its_end_and_nothing_more(progressive):
  data = encode(noise(), "JPEG", progressive=progressive)
  whole = np.asarray(pictures.load(data))
  for cut in (1, 2):
    np.testing.assert_array_equal(np.asarray(pictures.load(data[:-cut])), whole)
  for cut in (12, 100):
    with pytest.raises(pictures.Unreadable, match="truncated"):
      pictures.load(data[:-cut])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes_become_grey_or_rgb(mode, channels):
  kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
  data = encode(PIL.Image.new("RGB", (8, 8), "white").convert(mode), kind)
  view = pictures.View(size=8, channels=channels)
  array = pictures.read(data, view)
  assert array.shape == (8, 8, channels)
  assert array.min() >= 250


def test_an_uncompressed_tiff_of_ycbcr_is_read_as_it_is():
  image = PIL.ImageOps.colorize(noise(), "red", "blue").convert("YCbCr")
  data = encode(image, "TIFF")
  read = pictures.load(data)
  np.testing.assert_array_equal(
    np.asarray(read.convert("RGB")), np.asarray(image.convert("RGB"))
  )
  with pytest.raises(pictures.Unreadable, match="truncated"):
    pictures.load(data[:-100])


def test_the_first_frame_of_an_animation_is_used():
  frames = [PIL.Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
  data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
  assert pictures.read(data, SQUARE)[0, 0].tolist() == [255, 0, 0]


def bomb() -> bytes:
  """A PNG of a few hundred bytes that claims 40,000 x 40,000 pixels."""
  body = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
  header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
  return encode(gradient(4, 4))[:8] + header + encode(gradient(4, 4))[33:]


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"", "not a picture"),
    (b"<html>", "not a picture"),
    (encode(noise(), "JPEG")[:-200], "truncated or damaged"),
    (encode(noise())[:-200], "truncated or damaged"),
    (encode(noise(), "GIF")[:-200], "truncated or damaged"),
    (bomb(), "too many pixels"),
    (
      encode(PIL.Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
      "pixels are floating-point numbers",
    ),
  ],
)
def test_unusable_pictures_have_a_reason(data, reason):
  with pytest.raises(pictures.Unreadable, match=f"^{reason}$"):
    pictures.read(data, SQUARE)


def test_the_limit_on_pixels_can_be_set():
  data = encode(gradient(20, 10))
  view = SQUARE._replace(max_pixels=199)
  with pytest.raises(pictures.Unreadable, match="too many pixels"):
    pictures.read(data, view)
  assert pictures.read(data, view._replace(max_pixels=200)).shape == (8, 8, 3)
