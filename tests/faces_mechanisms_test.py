import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import mechanisms as drawing
from icm_jax import mechanisms, types
from icm_jax.mechanisms import faces
from tests import toy_run

KEY = jax.random.key(0)
COVERINGS = ("dark_glasses", "face_mask", "hat_band", "hand")
BLURS = ("defocus", "motion_blur", "pixelate")


@functools.cache
def picture(size=32, channels=3):
  """Smooth shapes, of the same look at any size."""
  y_H, x_W = ((np.arange(n) + 0.5) / n for n in (size, size))
  phase_C = np.arange(channels)
  x_HWC = 0.5 + 0.4 * np.sin(
    7 * y_H[:, None, None] + 5 * x_W[None, :, None] + phase_C[None, None]
  )
  return jnp.asarray(x_HWC, jnp.float32)


def of(name, **parameters):
  family = mechanisms.family(mechanisms.MECHANISMS[name])
  (mechanism,) = mechanisms.by_names([name], {family: parameters})
  return mechanism


def apply(name, x_HWC, **parameters):
  return np.asarray(of(name, **parameters)(KEY, x_HWC))


@pytest.mark.parametrize(
  "name",
  [
    n
    for n in mechanisms.MECHANISMS
    if n not in mechanisms.PRESETS["paper"]["names"]
    and n not in mechanisms.PRESETS["mnist_c"]["names"]
  ],
)
def test_mechanisms_do_not_depend_on_image_size(name):
  """Distorting and reducing an image give the same result in either order."""
  parameters = {"stddev": 0.0} if name in ("low_light", "backlight") else {}
  small_HWC = apply(name, picture(32), **parameters)
  large_HWC = apply(name, picture(64), **parameters)
  reduced_HWC = large_HWC.reshape(32, 2, 32, 2, 3).mean((1, 3))
  assert np.abs(reduced_HWC - small_HWC).mean() < 0.03
  assert np.abs(small_HWC - picture(32)).mean() > 0.02


def test_light_and_noise():
  x_HWC = jnp.full((64, 64, 1), 0.5)
  dark_HWC = apply("low_light", x_HWC, light=0.4, stddev=0.02)
  assert dark_HWC.mean() == pytest.approx(0.2, abs=2e-3)
  assert dark_HWC.std() == pytest.approx(0.02, abs=2e-3)


def test_backlight_has_equal_ratios_from_left_to_right():
  x_HWC = jnp.full((2, 3, 1), 0.5)
  y_HWC = apply("backlight", x_HWC, shade=0.01, glare=1.0, stddev=0.0)
  np.testing.assert_allclose(y_HWC[:, :, 0], [[0.005, 0.05, 0.5]] * 2, 1e-5)


def test_colours_are_cast_on_rgb_only():
  y_HWC = apply("colour_cast", jnp.full((1, 1, 3), 0.4), gains=(0.5, 1, 4))
  np.testing.assert_allclose(y_HWC[0, 0], [0.2, 0.4, 1.0], rtol=1e-6)
  with pytest.raises(types.InputError, match="channels=3"):
    jax.eval_shape(of("colour_cast"), KEY, picture(8, channels=1))


@pytest.mark.parametrize("name", BLURS)
def test_blurs_keep_uniform_images(name):
  x_HWC = jnp.full((10, 14, 1), 0.3)
  np.testing.assert_allclose(apply(name, x_HWC), x_HWC, atol=1e-6)


def test_defocus_spreads_a_point_as_a_gaussian():
  point_HWC = jnp.zeros((41, 61, 1)).at[20, 30].set(1.0)
  spread_HW = apply("defocus", point_HWC, sigma=0.05)[..., 0]
  for axis, length in enumerate((41, 61)):
    weight = spread_HW.sum(axis=1 - axis)
    position = np.arange(length) - (length - 1) / 2
    stddev = np.sqrt((weight * position**2).sum() / weight.sum())
    assert stddev == pytest.approx(0.05 * length, rel=0.01)


def test_motion_blurs_along_rows():
  point_HWC = jnp.zeros((5, 20, 1)).at[2, 10].set(1.0)
  row_W = apply("motion_blur", point_HWC, path=0.2)[2, :, 0]
  # The path has four pixels, with half of each end.
  np.testing.assert_allclose(
    row_W[7:14], [0, 0.125, 0.25, 0.25, 0.25, 0.125, 0], atol=1e-6
  )
  assert apply("motion_blur", point_HWC).sum(axis=(1, 2)).nonzero()[0] == [2]


def test_blocks_have_their_mean():
  x_HWC = jax.random.uniform(KEY, (6, 4, 1))
  y_HWC = apply("pixelate", x_HWC, blocks=2)
  np.testing.assert_allclose(
    y_HWC[::3, ::2], x_HWC.reshape(2, 3, 2, 2, 1).mean((1, 3)), rtol=1e-5
  )
  assert np.unique(y_HWC.round(4)).size == 4
  # More blocks than pixels leave the image unchanged.
  np.testing.assert_allclose(apply("pixelate", x_HWC, blocks=9), x_HWC)


@pytest.mark.parametrize("geometry", faces.GEOMETRIES)
@pytest.mark.parametrize("name", COVERINGS)
def test_coverings_hide_their_place_and_nothing_else(name, geometry):
  face = faces.GEOMETRIES[geometry]
  x_HWC = picture(96)
  mechanism = of(name, geometry=geometry, level=0.25)
  hidden_HW = mechanisms.covered(mechanism, (96, 96))
  y_HWC = np.asarray(mechanism(KEY, x_HWC))
  assert (y_HWC[hidden_HW] == 0.25).all()
  np.testing.assert_array_equal(y_HWC[~hidden_HW], x_HWC[~hidden_HW])

  def hides(x, y):
    return hidden_HW[int(y * 96), int(x * 96)]

  left, right = (face.middle + s * face.eye_distance / 2 for s in (-1, 1))
  for eye in (left, right):
    assert hides(eye, face.eyes) == (name in ("dark_glasses", "hand"))
  assert hides(face.middle, face.mouth) == (name in ("face_mask", "hand"))
  assert hides(face.middle, 0.05) == (name == "hat_band")
  assert 0.03 < hidden_HW.mean() < 0.65


def test_only_coverings_hide_anything():
  names = [
    name
    for name in mechanisms.MECHANISMS
    if mechanisms.covered(of(name), (32, 32)) is not None
  ]
  assert names == list(COVERINGS)


def test_only_shifts_move_an_image():
  for name in mechanisms.MECHANISMS:
    moved = mechanisms.displacement(of(name)) != (0, 0)
    assert moved == (mechanisms.family(of(name)) == "shift")


def test_an_unknown_geometry_lists_the_known_ones():
  with pytest.raises(types.InputError, match="'cat'.*celeb_a, .*orl_faces"):
    jax.eval_shape(of("hand", geometry="cat"), KEY, picture(8))


@pytest.mark.parametrize(
  ("preset", "channels"), [("faces", 3), ("faces_grey", 1)]
)
def test_presets_act_in_one_mixture(preset, channels):
  parameters = dict(mechanisms.PRESETS[preset])
  functions = mechanisms.by_names(parameters.pop("names"), parameters)
  x_BHWC = jnp.stack([picture(16, channels)] * len(functions))
  y_BHWC = jax.jit(
    lambda x: mechanisms.apply_each(
      KEY, x, jnp.arange(len(functions)), functions
    )
  )(x_BHWC)
  assert float(y_BHWC.min()) >= 0
  assert float(y_BHWC.max()) <= 1
  # All mechanisms have different results.
  flat_BN = np.asarray(y_BHWC).reshape(len(functions), -1)
  apart_BB = np.abs(flat_BN[:, None] - flat_BN[None]).mean(-1)
  assert apart_BB[~np.eye(len(functions), dtype=bool)].min() > 0.01


def test_faces_are_aligned_by_eye_distance_and_eyes():
  tight = faces.Geometry(0.5, 0.3, 0.4, 0.5, 0.7)
  left, top, side = faces.alignment(tight, faces.GEOMETRIES["celeb_a"])
  # Seen in that square, the eyes lie where those of celeb_a do.
  face = faces.GEOMETRIES["celeb_a"]
  assert (tight.middle - left) / side == pytest.approx(face.middle)
  assert (tight.eyes - top) / side == pytest.approx(face.eyes)
  assert tight.eye_distance / side == pytest.approx(face.eye_distance)
  assert faces.alignment(face, face) == pytest.approx((0, 0, 1))


def test_the_portrait_is_aligned_like_celeb_a():
  image_BHWC = drawing.portrait(64)
  assert image_BHWC.shape == (1, 64, 64, 3)
  assert image_BHWC.dtype == np.uint8
  # Skin between nose and mouth is brighter than the hat, and redder than blue.
  face = faces.GEOMETRIES["celeb_a"]
  skin_C, hat_C = (
    image_BHWC[0, round(64 * y), 29:35].mean(axis=0)
    for y in (face.nose, face.eyes - 0.2)
  )
  assert skin_C[0] > hat_C[0] + 60
  assert skin_C[0] > skin_C[2] + 20


def test_every_mechanism_is_drawn():
  image_BHWC = np.round(255 * np.asarray(picture(16)))[None].astype(np.uint8)
  rows = drawing.rows(image_BHWC, geometry="orl_faces")
  assert [row.name for row in rows] == [
    "clean",
    "up",  # One of the shifts is enough.
    *(
      name
      for name in mechanisms.MECHANISMS
      if mechanisms.family(of(name)) != "shift"
      and name not in mechanisms.PRESETS["mnist_c"]["names"]
    ),
  ]
  by_name = {row.name: row for row in rows}
  np.testing.assert_array_equal(by_name["invert"].image_BHWC, 255 - image_BHWC)
  # With the strength of the preset, and the geometry that was asked for.
  assert by_name["noise"].note == "stddev 0.25"
  hidden_HW = faces.covered("hand", (16, 16), geometry="orl_faces")
  assert (by_name["hand"].image_BHWC[0, hidden_HW] == 153).all()


def test_the_portrait_is_drawn_before_and_after_the_experts_of_a_run():
  toy = toy_run.learned()
  in_colour = dataclasses.replace(toy, shape_HWC=(32, 32, 3))
  before, after = drawing.restored_rows(in_colour)
  (portrait_HWC,) = drawing.portrait(32)
  np.testing.assert_array_equal(before.image_BHWC[2], 255 - portrait_HWC)
  winners = in_colour.restore(before.image_BHWC).restored_BHWC
  np.testing.assert_allclose(after.image_BHWC / 255, winners, atol=1 / 255)
  with pytest.raises(types.InputError, match="RGB images; .* 32x32x1"):
    drawing.restored_rows(toy)
