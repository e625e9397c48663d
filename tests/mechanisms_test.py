import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import mechanisms, types

KEY = jax.random.key(0)
OPPOSITE = {
  "up": "down",
  "up_right": "down_left",
  "right": "left",
  "down_right": "up_left",
}


def test_a_shift_by_hand():
  x_HWC = jnp.arange(9.0).reshape(3, 3, 1) / 10
  (up_right,) = mechanisms.by_names(
    ["up_right"], {"shift": {"pixels": 1, "background": 1.0}}
  )
  expected_HW = [[1.0, 0.3, 0.4], [1.0, 0.6, 0.7], [1.0, 1.0, 1.0]]
  np.testing.assert_allclose(
    np.asarray(up_right(KEY, x_HWC))[..., 0], expected_HW, atol=1e-6
  )


@pytest.mark.parametrize(("name", "opposite"), OPPOSITE.items())
def test_opposite_shifts_cancel_inside_the_frame(name, opposite):
  x_HWC = (
    jnp.zeros((20, 24, 2))
    .at[8:12, 8:16]
    .set(jax.random.uniform(KEY, (4, 8, 2)))
  )
  there, back = mechanisms.by_names([name, opposite], {"shift": {"pixels": 4}})
  shifted_HWC = there(KEY, x_HWC)
  assert not np.array_equal(shifted_HWC, x_HWC)
  np.testing.assert_array_equal(back(KEY, shifted_HWC), x_HWC)


def test_a_shift_beyond_the_frame_leaves_background():
  (left,) = mechanisms.by_names(["left"], {"shift": {"pixels": 9}})
  assert not left(KEY, jnp.ones((8, 8, 1))).any()


def test_noise_has_its_sd_and_is_clipped():
  x_HWC = jnp.full((100, 100, 1), 0.5)
  (weak,) = mechanisms.by_names(["noise"], {"noise": {"stddev": 0.1}})
  (strong,) = mechanisms.by_names(["noise"], {"noise": {"stddev": 0.5}})
  assert abs(float((weak(KEY, x_HWC) - x_HWC).std()) - 0.1) < 0.005
  noisy_HWC = np.asarray(strong(KEY, x_HWC))
  assert noisy_HWC.min() == 0.0
  assert noisy_HWC.max() == 1.0
  # Clipped, not rescaled: inside the range the values are as dense as ever.
  inside = np.mean((noisy_HWC > 0) & (noisy_HWC < 1))
  assert abs(inside - 0.683) < 0.02


def test_inversion_by_hand():
  (invert,) = mechanisms.by_names(["invert"], {})
  x_HWC = jax.random.uniform(KEY, (5, 6, 3))
  np.testing.assert_allclose(invert(KEY, x_HWC), 1 - x_HWC)


@pytest.mark.parametrize("name", mechanisms.MECHANISMS)
def test_all_keep_shape_dtype_and_range(name):
  x_BHWC = jax.random.uniform(KEY, (2, 12, 10, 3))
  (mechanism,) = mechanisms.by_names([name], {})
  y_BHWC = jax.jit(jax.vmap(mechanism))(jax.random.split(KEY, 2), x_BHWC)
  assert y_BHWC.shape == x_BHWC.shape
  assert y_BHWC.dtype == jnp.float32
  assert float(y_BHWC.min()) >= 0
  assert float(y_BHWC.max()) <= 1
  assert not np.array_equal(y_BHWC, x_BHWC)


@pytest.mark.parametrize("preset", mechanisms.PRESETS)
def test_presets_have_all_their_mechanisms(preset):
  parameters = dict(mechanisms.PRESETS[preset])
  names = parameters.pop("names")
  assert (
    len(mechanisms.by_names(names, parameters))
    == {
      "paper": 10,
      "three": 3,
      "faces": 8,
      "faces_grey": 6,
      "mnist_c": 15,
    }[preset]
  )


def test_defaults_equal_the_papers():
  assert (
    inspect.signature(mechanisms.MECHANISMS["noise"])
    .parameters["stddev"]
    .default
    == 0.5
  )
  assert mechanisms.PRESETS["paper"]["shift"]["pixels"] == 4


@pytest.mark.parametrize(
  ("names", "parameters", "message"),
  [
    (["up", "nope"], {}, "up_right, right.*'nope'"),
    ([], {}, "none"),
    (["up", "up"], {}, "different"),
    (["up"], {"blur": {}}, "'blur'; known: .*, invert, .*, noise, .*, shift"),
  ],
)
def test_unknown_mechanisms_list_the_known_ones(names, parameters, message):
  with pytest.raises(types.InputError, match=message):
    mechanisms.by_names(names, parameters)


def test_the_mixture_draws_all_and_says_which():
  functions = mechanisms.by_names(["up", "invert", "right"], {})
  x_BHWC = jax.random.uniform(KEY, (300, 8, 8, 1))
  y_BHWC, id_B = mechanisms.apply_mixture(jax.random.key(1), x_BHWC, functions)
  counts = np.bincount(id_B, minlength=3)
  assert counts.min() > 70
  for x_HWC, y_HWC, mechanism_id in zip(
    x_BHWC[:20], y_BHWC, id_B, strict=False
  ):
    np.testing.assert_allclose(
      y_HWC, functions[mechanism_id](KEY, x_HWC), atol=1e-6
    )


def test_every_image_gets_noise_of_its_own():
  functions = mechanisms.by_names(["noise"], {})
  x_BHWC = jnp.full((2, 8, 8, 1), 0.5)
  with jax.debug_key_reuse(True):
    y_BHWC, _ = mechanisms.apply_mixture(jax.random.key(1), x_BHWC, functions)
  assert not np.array_equal(y_BHWC[0], y_BHWC[1])


@pytest.mark.parametrize(
  ("parameters", "message"),
  [
    ({"shift": {"pixel": 3}}, "shift has no parameter 'pixel'; known: up, "),
    ({"shift": {"pixels": 2.5}}, "pixels must be a whole number, at least 0"),
    ({"shift": {"pixels": -1}}, "pixels must be a whole number, at least 0"),
    ({"shift": {"background": 2}}, r"background must be in \[0, 1\]; got 2"),
    ({"noise": {"stddev": -0.1}}, "stddev must be at least 0; got -0.1"),
    ({"noise": {"stddev": "much"}}, "stddev must be at least 0; got 'much'"),
  ],
)
def test_parameters_that_cannot_be_are_refused(parameters, message):
  with pytest.raises(types.InputError, match=message):
    mechanisms.by_names(["right", "noise"], parameters)


def test_something_of_an_image_must_be_left():
  (right,) = mechanisms.by_names(["right"], {"shift": {"pixels": 8}})
  mechanisms.check_fit(right, (9, 9, 1))
  with pytest.raises(types.InputError, match=r"below 8, the size.*got 8"):
    mechanisms.check_fit(right, (9, 8, 1))


def test_a_weakened_shift_is_shorter():
  x_HWC = jax.random.uniform(KEY, (8, 8, 1))
  (full,) = mechanisms.by_names(["left"], {"shift": {"pixels": 4}})
  (half,) = mechanisms.by_names(["left"], {"shift": {"pixels": 2}})
  for strength, expected in ((1, full(KEY, x_HWC)), (0.5, half(KEY, x_HWC))):
    np.testing.assert_array_equal(
      mechanisms.weakened(full, strength)(KEY, x_HWC), expected
    )
  np.testing.assert_array_equal(mechanisms.weakened(full, 0)(KEY, x_HWC), x_HWC)


@pytest.mark.parametrize("name", ["invert", "noise", "defocus"])
def test_a_weakened_mechanism_makes_a_part_of_the_change(name):
  x_HWC = jax.random.uniform(KEY, (8, 8, 1))
  (full,) = mechanisms.by_names([name], {})
  y_HWC = mechanisms.weakened(full, 0.25)(KEY, x_HWC)
  np.testing.assert_allclose(
    y_HWC, 0.75 * x_HWC + 0.25 * full(KEY, x_HWC), atol=1e-6
  )
  assert 0 <= y_HWC.min() <= y_HWC.max() <= 1


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strengths_are_in_their_range(strength):
  with pytest.raises(types.InputError, match=r"must be in \[0, 1\]"):
    mechanisms.weakened(mechanisms.MECHANISMS["up"], strength)
