"""Experts and discriminators for photographs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import models, types
from icm_jax.kernels import convolution
from icm_jax.models import residual

KEY = jax.random.key(0)


def small(module, shape_HWC=(16, 16, 1), **more):
  return models.from_linen(module, shape_HWC, **more)


@pytest.mark.parametrize("name", sorted(models.EXPERTS))
def test_experts_by_name_keep_shape_and_range(name, draw_params):
  network = small(models.EXPERTS[name](features=2, norm="none"), (8, 16, 3))
  params, stats = draw_params(network.init)
  x_BHWC = jax.random.uniform(KEY, (2, 8, 16, 3))
  for train in (True, False):
    y_BHWC, _ = jax.jit(network.apply, static_argnames="train")(
      params, stats, x_BHWC, train=train
    )
    assert y_BHWC.shape == x_BHWC.shape
    assert 0 <= float(y_BHWC.min()) < float(y_BHWC.max()) <= 1


@pytest.mark.parametrize("name", ["dilated", "masked_unet", "unet"])
def test_residual_experts_start_near_the_identity_but_differ(name):
  network = small(models.EXPERTS[name](features=4, norm="none", copies=True))
  x_BHWC = jax.random.uniform(KEY, (2, 16, 16, 1)).round(1)  # Black and white.
  key_E = jax.random.split(KEY)

  @jax.jit
  def outputs(key_E):
    params, _ = jax.vmap(network.init)(key_E)
    return jax.vmap(lambda p: network.apply(p, {}, x_BHWC, train=True)[0])(
      params
    )

  y_EBHWC = outputs(key_E)
  assert jnp.mean((y_EBHWC - x_BHWC[None]) ** 2) < 1e-3
  assert not np.array_equal(*y_EBHWC)


@pytest.mark.parametrize(
  ("module", "reach"),
  [
    (models.UNetExpert(2, "none"), 16),
    (models.DilatedExpert(2, "none"), 16),
  ],
  ids=["unet", "dilated"],
)
def test_experts_see_as_far_as_an_occlusion(module, reach, draw_params):
  network = small(module, (40, 40, 1))
  params, stats = draw_params(network.init)

  @jax.jit
  def seen(x_BHWC):
    centre = lambda x: network.apply(params, stats, x, train=False)[0][
      :, 20, 20
    ]
    _, back = jax.vjp(centre, x_BHWC)
    # Where an output is clipped, the gradient of one direction still passes.
    (up,), (down,) = back(jnp.ones((1, 1))), back(-jnp.ones((1, 1)))
    return (up != 0) | (down != 0)

  seen_HW = seen(jax.random.uniform(KEY, (1, 40, 40, 1)))[0, :, :, 0]
  rows = np.flatnonzero(seen_HW.any(axis=1))
  assert rows.min() <= 20 - reach
  assert rows.max() >= 20 + reach - 1


def test_pixels_below_a_closed_mask_are_copied_to_the_bit(draw_params):
  network = small(models.EXPERTS["masked_unet"](features=2, norm="none"))
  params, _ = draw_params(network.init)
  params = jax.tree.map(jnp.asarray, params)
  x_BHWC = jax.random.uniform(KEY, (2, 16, 16, 1))
  last = params["Stack_0"]["layers"]["layer_0"]
  assert last["bias"].shape == (2,)  # The change of one channel, and the mask.

  def output(logit):
    closed = {
      "kernel": last["kernel"].at[..., 1].set(0.0),
      "bias": last["bias"].at[1].set(logit),
    }
    changed = {**params, "Stack_0": {"layers": {"layer_0": closed}}}
    return jax.jit(network.apply, static_argnames="train")(
      changed, {}, x_BHWC, train=True
    )[0]

  np.testing.assert_array_equal(output(-1e3), x_BHWC)
  # An open mask adds the change; a mask of one half adds half of it.
  change_BHWC, half_BHWC = output(1e3) - x_BHWC, output(1.0) - x_BHWC
  assert (change_BHWC != 0).any()
  inside = (output(1e3) > 0.0) & (output(1e3) < 1.0)
  np.testing.assert_allclose(
    half_BHWC[inside], 0.5 * change_BHWC[inside], atol=1e-6
  )


def test_patches_and_the_whole_image_are_judged(draw_params):
  network = models.make_discriminator(
    "patch_global", (32, 32, 1), features=2, hidden=4, norm="none"
  )
  params, stats = draw_params(network.init)
  assert not stats
  x_BHWC = jax.random.uniform(KEY, (3, 32, 32, 1))
  apply = jax.jit(lambda params, x: network.apply(params, {}, x, train=True)[0])
  both_B = apply(params, x_BHWC)
  assert both_B.shape == (3,)
  silent = {
    **params,
    "Dense_1": jax.tree.map(jnp.zeros_like, params["Dense_1"]),
  }
  patches_B = apply(silent, x_BHWC)
  assert (both_B != patches_B).all()

  # Without the dense layers, the score is a mean over patches: a change in one
  # corner has no effect on the patches of the opposite one.
  def corner(x_BHWC):
    return x_BHWC.at[:, :4, :4].set(0.0)

  def slope(x_BHWC):
    return jax.grad(lambda x: apply(silent, x).sum())(x_BHWC)[:, -4:, -4:]

  np.testing.assert_allclose(
    slope(x_BHWC), slope(corner(x_BHWC)), rtol=1e-4, atol=1e-7
  )
  assert (slope(x_BHWC) != 0).any()


def test_a_u_net_refuses_sides_that_cannot_be_halved():
  with pytest.raises(types.InputError, match="multiples of 8; got 8x12"):
    small(models.UNetExpert(2, "none"), (8, 12, 1)).init(KEY)


def test_values_outside_the_range_can_return():
  x = jnp.array([-0.5, -0.5, 0.5, 1.5, 1.5])
  y, back = jax.vjp(residual.bounded, x)
  np.testing.assert_array_equal(y, [0.0, 0.0, 0.5, 1.0, 1.0])
  # A step against the gradient.
  (gradient,) = back(jnp.array([1.0, -1.0, 1.0, 1.0, -1.0]))
  np.testing.assert_array_equal(gradient, [0.0, -1.0, 1.0, 1.0, 0.0])


def test_halving_and_doubling_by_hand():
  x_BHWC = jnp.arange(8.0).reshape(1, 2, 4, 1)
  np.testing.assert_array_equal(
    convolution.halve(x_BHWC)[0, :, :, 0], [[2.5, 4.5]]
  )
  np.testing.assert_array_equal(
    residual.double(x_BHWC)[0, 2:, :, 0], [[4, 4, 5, 5, 6, 6, 7, 7]] * 2
  )


def test_the_score_of_patches_is_their_mean(draw_params):
  network = small(models.PatchDiscriminator(2, 4))
  params, stats = draw_params(network.init)
  wide = small(models.PatchDiscriminator(2, 4), (16, 80, 1))
  x_BHWC = jnp.zeros((2, 16, 80, 1)).at[1, 8, 40, 0].set(1.0)
  score_B, _ = wide.apply(params, stats, x_BHWC, train=True)
  assert score_B.shape == (2,)
  assert score_B[0] != score_B[1]
  assert network.apply(params, stats, x_BHWC[:, :, :16], train=True)[
    0
  ].shape == (2,)


@pytest.mark.parametrize(
  ("make", "known"),
  [
    (models.make_expert, "conv, dilated, unet"),
    (models.make_discriminator, "conv, conv_centred, patch"),
  ],
)
def test_unknown_names_list_the_known_ones(make, known):
  with pytest.raises(types.InputError, match=f"'gan'; known: {known}"):
    make("gan", (8, 8, 1))


def test_a_centred_discriminator_sees_differences_from_grey(draw_params):
  plain, centred = (
    models.make_discriminator(name, (8, 8, 1), features=2, hidden=4)
    for name in ("conv", "conv_centred")
  )
  params, stats = draw_params(plain.init)
  x_BHWC = jax.random.uniform(KEY, (2, 8, 8, 1))
  np.testing.assert_allclose(
    centred.apply(params, stats, x_BHWC, train=True)[0],
    plain.apply(params, stats, 4.0 * (x_BHWC - 0.5), train=True)[0],
    rtol=1e-5,
  )
