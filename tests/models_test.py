import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import models, types
from icm_jax.models import normalisation

KEY = jax.random.key(0)


def count(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def abstract_params(module, shape_HWC=(32, 32, 1)):
  network = models.from_linen(module, shape_HWC)
  return jax.eval_shape(network.init, KEY)


def test_parameter_counts_equal_the_papers():
  assert count(abstract_params(models.ConvExpert())[0]) == 28_609
  assert count(abstract_params(models.ConvDiscriminator())[0]) == 1_124_737


@pytest.mark.parametrize(
  ("norm", "parameters", "statistics"),
  [("batch", 28_609, 256), ("group", 28_609, 0), ("none", 28_353, 0)],
)
def test_normalisations_of_the_expert(norm, parameters, statistics):
  params, stats = abstract_params(models.ConvExpert(norm=norm))
  assert (count(params), count(stats)) == (parameters, statistics)


def test_an_unknown_normalisation_lists_the_known_ones():
  with pytest.raises(types.InputError, match="'layer'; known: batch, group"):
    abstract_params(models.ConvExpert(norm="layer"))


@pytest.mark.parametrize("shape_HWC", [(8, 8, 1), (13, 17, 3)])
@pytest.mark.parametrize("norm", models.NORMS)
def test_experts_keep_shape_and_range(norm, shape_HWC):
  network = models.from_linen(
    models.ConvExpert(features=8, norm=norm), shape_HWC
  )
  params, stats = network.init(KEY)
  x_BHWC = jax.random.uniform(KEY, (2, *shape_HWC))
  for train in (True, False):
    y_BHWC, _ = network.apply(params, stats, x_BHWC, train=train)
    assert y_BHWC.shape == x_BHWC.shape
    assert 0 <= float(y_BHWC.min()) <= float(y_BHWC.max()) <= 1


def test_the_expert_sees_eleven_pixels():
  network = models.from_linen(models.ConvExpert(4, "none"), (25, 25, 1))
  params, stats = network.init(KEY)

  def centre(x_HWC):
    return network.apply(params, stats, x_HWC[None], train=False)[0][
      0, 12, 12, 0
    ]

  seen_HW = jax.grad(centre)(jax.random.uniform(KEY, (25, 25, 1)))[..., 0] != 0
  rows = np.flatnonzero(seen_HW.any(axis=1))
  assert (rows.min(), rows.max()) == (12 - 5, 12 + 5)


def test_statistics_move_in_training_only():
  network = models.from_linen(models.ConvExpert(4, "batch"), (8, 8, 1))
  params, stats = network.init(KEY)
  x_BHWC = jax.random.uniform(KEY, (2, 8, 8, 1))
  _, same = network.apply(params, stats, x_BHWC, train=False)
  _, moved = network.apply(params, stats, x_BHWC, train=True)
  leaves = [jax.tree.leaves(tree) for tree in (stats, same, moved)]
  for before, at_test, in_training in zip(*leaves, strict=True):
    np.testing.assert_array_equal(before, at_test)
    assert not np.array_equal(before, in_training)


@pytest.mark.parametrize("norm", ["none", "group"])
def test_a_score_depends_on_its_own_image_only(norm):
  network = models.from_linen(
    models.ConvDiscriminator(features=8, hidden=8, norm=norm), (12, 12, 1)
  )
  params, stats = network.init(KEY)
  assert not jax.tree.leaves(stats)
  x_BHWC = jax.random.uniform(KEY, (3, 12, 12, 1))
  together_B, _ = network.apply(params, stats, x_BHWC, train=True)
  alone_B, _ = network.apply(params, stats, x_BHWC[:1], train=True)
  assert together_B.shape == (3,)
  np.testing.assert_allclose(together_B[:1], alone_B, atol=1e-6)


def test_the_classifier_gives_a_logit_per_class():
  network = models.from_linen(models.ConvClassifier(num_classes=5), (8, 8, 1))
  params, stats = network.init(KEY)
  logit_BK, _ = network.apply(
    params, stats, jnp.zeros((2, 8, 8, 1)), train=True
  )
  assert logit_BK.shape == (2, 5)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_networks_that_compute_in_half_precision(norm):
  module = models.ConvExpert(4, norm)
  exact = models.from_linen(module, (8, 8, 1))
  half = models.from_linen(module, (8, 8, 1), compute_dtype="bfloat16")
  params, stats = exact.init(KEY)
  x_BHWC = jax.random.uniform(KEY, (2, 8, 8, 1))

  def objective(network):
    def mean(params):
      y_BHWC, new_stats = network.apply(params, stats, x_BHWC, train=True)
      return jnp.mean(y_BHWC**2), (y_BHWC, new_stats)

    return jax.jit(jax.grad(mean, has_aux=True))(params)

  gradients, (y_BHWC, new_stats) = objective(half)
  assert {
    leaf.dtype for leaf in jax.tree.leaves((gradients, y_BHWC, new_stats))
  } == {jnp.dtype("float32")}
  expected = objective(exact)[1][0]
  np.testing.assert_allclose(y_BHWC, expected, atol=0.02)
  assert not np.array_equal(y_BHWC, expected)


def test_an_unknown_compute_dtype_is_refused():
  with pytest.raises(types.InputError, match="float32, bfloat16; got 'int8'"):
    models.from_linen(models.ConvExpert(), (8, 8, 1), compute_dtype="int8")


def test_running_statistics_follow_those_of_batches():
  layer = normalisation.BatchNormElu()
  x_BHWC = 2.0 + jax.random.normal(KEY, (4, 3, 3, 2))
  variables = layer.init(jax.random.key(0), x_BHWC, train=False)
  for _ in range(200):
    _, new = layer.apply(variables, x_BHWC, train=True, mutable=["batch_stats"])
    variables = {**variables, **new}
  in_training, _ = layer.apply(
    variables, x_BHWC, train=True, mutable=["batch_stats"]
  )
  at_test = layer.apply(variables, x_BHWC, train=False)
  np.testing.assert_allclose(at_test, in_training, atol=1e-5)
  again = layer.apply(variables, x_BHWC[:1], train=False)
  np.testing.assert_allclose(again, at_test[:1], atol=1e-6)


@pytest.mark.parametrize("name", sorted(models.DISCRIMINATORS))
def test_discriminators_refuse_images_that_are_too_small(name):
  network = models.make_discriminator(name, (7, 9, 1), features=2, hidden=4)
  with pytest.raises(types.InputError, match="at least 8x8 pixels; got 7x9"):
    network.init(KEY)


def test_parameters_are_plain_dicts():
  params, _ = abstract_params(models.ConvExpert(norm="none"))
  stack = params["ConvStack_0"]["Stack_0"]["layers"]
  assert list(stack) == [f"layer_{index}" for index in range(5)]
  assert {type(layer) for layer in stack.values()} == {dict}
  assert stack["layer_0"]["kernel"].shape == (3, 3, 1, 32)
