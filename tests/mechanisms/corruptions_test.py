"""The corruptions of MNIST-C, by hand and against the benchmark's pictures."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import corruptions as comparison
from icm_jax import mechanisms
from icm_jax.mechanisms import corruptions, edges, plasma, swaps

KEY = jax.random.key(0)
SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mnist_c"
PRESET = mechanisms.PRESETS["mnist_c"]["names"]


def square(size=28, first=9, last=18):
  """A white square on black."""
  return (
    jnp.zeros((size, size, 1)).at[first : last + 1, first : last + 1].set(1.0)
  )


def apply(name, x_HWC, key=KEY, **parameters):
  (mechanism,) = mechanisms.by_names([name], {name: parameters})
  return np.asarray(mechanism(key, x_HWC))


def test_all_corruptions_act_in_one_mixture():
  functions = mechanisms.by_names(PRESET, {})
  number_B = jnp.tile(jnp.arange(len(PRESET)), 2)
  x_BHWC = jnp.broadcast_to(square(), (len(number_B), 28, 28, 1))

  @jax.jit
  def distort(key):
    return mechanisms.apply_each(key, x_BHWC, number_B, functions)

  y_BHWC = np.asarray(distort(KEY))
  assert y_BHWC.dtype == np.float32
  assert y_BHWC.min() >= 0
  assert y_BHWC.max() <= 1
  np.testing.assert_array_equal(distort(KEY), y_BHWC)
  first_BHWC, second_BHWC = np.split(y_BHWC, 2)
  other_BHWC = np.asarray(distort(jax.random.key(1)))[: len(PRESET)]
  fixed = ("scale", "brightness", "stripe", "canny_edges")
  for name, first_HWC, second_HWC, other_HWC in zip(
    PRESET, first_BHWC, second_BHWC, other_BHWC, strict=True
  ):
    assert not np.array_equal(first_HWC, x_BHWC[0])
    # Of the three draws, those with random sides only may agree by chance.
    draws = {a.tobytes() for a in (first_HWC, second_HWC, other_HWC)}
    assert (len(draws) == 1) == (name in fixed), name
  flat_BN = first_BHWC.reshape(len(PRESET), -1)
  apart_BB = np.abs(flat_BN[:, None] - flat_BN[None]).mean(-1)
  assert apart_BB[~np.eye(len(PRESET), dtype=bool)].min() > 0.005


def test_every_name_of_the_benchmark_has_a_mechanism():
  assert tuple(corruptions.BENCHMARK.values()) == PRESET
  assert corruptions.BENCHMARK["motion_blur"] == "motion_trail"
  # The blur of faces is another mechanism.
  assert mechanisms.MECHANISMS["motion_blur"] is mechanisms.faces.motion_blur


def test_photons_are_counted():
  x_HWC = jnp.full((200, 200, 1), 0.5)
  share_4 = [
    (np.round(apply("shot_noise", x_HWC) * 3) == n).mean() for n in range(4)
  ]
  none = np.exp(-1.5)
  expected_4 = [none, none * 1.5, none * 1.5**2 / 2]
  np.testing.assert_allclose(
    share_4, [*expected_4, 1 - sum(expected_4)], atol=0.01
  )
  assert not apply("shot_noise", jnp.zeros((28, 28, 1))).any()


def test_salt_and_pepper_are_as_frequent():
  y_HWC = apply("impulse_noise", jnp.full((200, 200, 1), 0.5), amount=0.2)
  shares = [(y_HWC == value).mean() for value in (0.0, 0.5, 1.0)]
  np.testing.assert_allclose(shares, [0.1, 0.8, 0.1], atol=0.01)


def test_pixels_change_places_as_one_after_another():
  rng = np.random.default_rng(0)
  choice_HW = rng.integers(0, 8, (6, 9))
  x_HWC = rng.random((6, 9, 2)).astype(np.float32)
  expected_HWC = x_HWC.copy()
  for row in range(5, 1, -1):
    for column in range(8, 1, -1):
      if choice_HW[row, column] >= 4:
        bits = choice_HW[row, column]
        here = row, column
        there = row - bits % 2, column - bits // 2 % 2
        pair = expected_HWC[[here[0], there[0]], [here[1], there[1]]]
        expected_HWC[[there[0], here[0]], [there[1], here[1]]] = pair
  y_HWC = swaps.change_places(jnp.asarray(choice_HW), jnp.asarray(x_HWC))
  np.testing.assert_array_equal(y_HWC, expected_HWC)
  assert (expected_HWC != x_HWC).any(axis=-1).sum() > 12


def test_a_trail_is_on_one_side():
  point_HWC = jnp.zeros((9, 40, 1)).at[4, 20].set(1.0)
  row_W = apply("motion_trail", point_HWC, degrees=0.0)[4, :, 0]
  weight = np.exp(-0.5 * (np.arange(13) / 3) ** 2)
  np.testing.assert_allclose(row_W[20:7:-1], weight / weight.sum(), rtol=1e-5)
  assert not row_W[21:].any()


@pytest.mark.parametrize("name", ["shear", "rotate"])
def test_both_sides_are_mirrored(name):
  x_HWC = square().at[9, 9].set(0.5)
  found = {}
  for seed in range(8):
    y_HWC = apply(name, x_HWC, key=jax.random.key(seed))
    found[y_HWC.tobytes()] = y_HWC
  one_HWC, other_HWC = found.values()
  mirrored_HWC = apply(name, x_HWC[:, ::-1])[:, ::-1]
  assert mirrored_HWC.tobytes() in found
  assert not np.array_equal(one_HWC, other_HWC)


def test_a_quarter_of_a_turn_is_exact():
  x_HWC = jax.random.uniform(KEY, (6, 6, 1))
  y_HWC = apply("rotate", x_HWC, radians=np.pi / 2)
  turned = [np.rot90(x_HWC, times) for times in (1, 3)]
  assert min(np.abs(y_HWC - each).max() for each in turned) < 1e-5


def test_half_the_size_takes_means_about_the_centre():
  x_HWC = jax.random.uniform(KEY, (8, 8, 1))
  y_HWC = apply("scale", x_HWC, factor=0.5)
  means_HWC = np.asarray(x_HWC).reshape(4, 2, 4, 2, 1).mean((1, 3))
  np.testing.assert_allclose(y_HWC[2:6, 2:6], means_HWC, atol=1e-6)
  assert y_HWC.sum() == pytest.approx(means_HWC.sum(), rel=1e-5)


def test_translations_take_all_four_diagonals():
  point_HWC = jnp.zeros((9, 9, 1)).at[4, 4].set(1.0)
  places = {
    tuple(np.argwhere(apply("translate", point_HWC, key=key))[0])
    for key in jax.random.split(KEY, 32)
  }
  assert places == {(row, column, 0) for row in (1, 7) for column in (1, 7)}


def test_stripes_are_the_outer_quarters():
  x_HWC = jnp.full((28, 28, 1), 0.25)
  row_W = apply("stripe", x_HWC)[0, :, 0]
  np.testing.assert_array_equal(row_W, [0.75] * 7 + [0.25] * 14 + [0.75] * 7)


def test_light_is_added():
  x_HWC = jnp.asarray([0.0, 0.25, 0.75]).reshape(1, 3, 1)
  np.testing.assert_allclose(
    apply("brightness", x_HWC).ravel(), [0.5, 0.75, 1.0]
  )


def test_fog_is_a_part_of_a_whole_map():
  keys = jax.random.split(KEY, 64)
  corner = jax.jit(
    jax.vmap(lambda key: plasma.fractal(key, (28, 21), decay=1.4))
  )
  fog_NHW = np.asarray(corner(keys))
  assert fog_NHW.shape == (64, 28, 21)
  assert 0 <= fog_NHW.min() < 0.2 < 0.8 < fog_NHW.max() <= 1
  # A corner has a part of the range, since fog is smooth.
  ranges_N = np.ptp(fog_NHW, axis=(1, 2))
  assert 0.1 < ranges_N.mean() < 0.5
  assert np.abs(np.diff(fog_NHW, axis=2)).mean() < 0.02


def test_the_brightest_pixel_bounds_the_fog():
  fog = jax.jit(mechanisms.MECHANISMS["fog"])
  assert not fog(KEY, jnp.zeros((28, 28, 1))).any()
  y_HWC = np.asarray(fog(KEY, 0.5 * square()))
  assert y_HWC.max() <= 0.5
  assert y_HWC[9:19, 9:19].min() > 0


def test_mud_covers_parts_by_its_level():
  white_HWC = jnp.ones((28, 28, 3))
  y_HWC = apply("spatter", white_HWC, level=0.2)
  mud_HW = y_HWC[..., 0] < 1
  assert 0.05 < mud_HW.mean() < 0.6
  # Four fifths of mud, at least, and the same in all channels.
  assert y_HWC[mud_HW].max() <= 0.8 * 0.2 + 0.2 + 1e-6
  np.testing.assert_array_equal(y_HWC[..., 0], y_HWC[..., 2])


def test_dots_are_pairs_of_columns():
  y_HWC = apply("dotted_line", jnp.zeros((28, 28, 1)))
  lit_W = (y_HWC[..., 0] == y_HWC.max(axis=(0, 2))) & (y_HWC[..., 0] > 0.5)
  columns = np.flatnonzero(lit_W.any(axis=0))
  assert columns.tolist() == [c for c in range(27) if c % 4 >= 2]


def test_a_zigzag_has_corners_on_both_sides():
  # Many lines lie near an edge: one is enough that does not.
  for key in jax.random.split(KEY, 20):
    y_HW = apply("zigzag", jnp.zeros((28, 28, 1)), key=key)[..., 0]
    if not y_HW[:8].any() and not y_HW[-8:].any():
      break
  columns = np.flatnonzero(y_HW.any(axis=0))
  assert columns[0] == 2
  assert columns[-1] in (24, 25)
  middle_W = (y_HW * np.arange(28)[:, None])[:, columns].sum(0)
  middle_W = middle_W / y_HW[:, columns].sum(0)
  turns = np.diff(np.sign(np.diff(middle_W)))
  assert (turns != 0).sum() >= 6


def test_edges_of_a_square_are_its_outline():
  edge_HW = np.asarray(apply("canny_edges", square()))[..., 0]
  assert set(np.unique(edge_HW)) == {0.0, 1.0}
  # Along each side the gradient is as large inside as outside.
  assert edge_HW[13].nonzero()[0].tolist() in (
    [8, 19],
    [9, 18],
    [8, 9, 18, 19],
  )
  assert not edge_HW[11:17, 11:17].any()
  np.testing.assert_array_equal(edge_HW, edge_HW.T)


def test_weak_edges_stay_where_they_touch_strong_ones():
  """An edge whose contrast falls below the upper threshold on its way."""
  contrast_W = np.where(np.arange(28) < 14, 0.1, 0.04)
  step_HW = np.where(np.arange(28)[:, None] < 14, 0.0, contrast_W)
  find = jax.jit(edges.canny, static_argnames=("sigma", "low", "high"))
  whole_HW = np.asarray(find(step_HW, sigma=1.0, low=0.05, high=0.2))
  strong_HW = np.asarray(find(step_HW, sigma=1.0, low=0.2, high=0.2))
  weak_HW = np.asarray(find(step_HW, sigma=1.0, low=0.05, high=0.9))
  assert whole_HW[12:16, 1:27].any(axis=0).all()
  assert not strong_HW[12:16, 18:].any()
  assert not weak_HW.any()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/mnist_c")
@pytest.mark.parametrize("name", corruptions.BENCHMARK)
def test_pictures_equal_the_benchmarks(name):
  exact = name in comparison.EXACT
  # A draw of fog covers whole images, so that means of few draws are rough.
  draws = 16 if exact else 4 if name == "fog" else 1
  row = comparison.compare(
    SHARED, name, draws=draws, images=100 if exact else None
  )
  assert row.reached, row
