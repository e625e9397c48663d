"""The fast step: equal to the paper's algorithm, and its properties."""

import functools

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from icm_jax import competition, kernels, models, types
from icm_jax.competition import remedies

MODES = ("unroll", "vmap")


def largest_leaf(tree):
  """Returns the largest leaf as an array: a kernel, in all networks here."""
  return np.asarray(max(jax.tree.leaves(tree), key=lambda leaf: leaf.size))


def without_key(state):
  return state.replace(key=jax.random.key_data(state.key))


def assert_states_close(a, b, atol=1e-5):
  chex.assert_trees_all_close(without_key(a), without_key(b), atol=atol)


def jit_step(setup):
  return jax.jit(functools.partial(competition.competition_step, setup=setup))


@pytest.mark.parametrize(
  ("kernel", "norm"), [("auto", "none"), ("auto", "batch"), ("xla", "none")]
)
@pytest.mark.parametrize("mode", MODES)  # "auto" is one of these.
def test_twenty_steps_equal_those_of_the_paper(
  mode, kernel, norm, make_setup, make_state
):
  setup = make_setup(norm=norm, expert_map=mode)
  # Gradients of biases before a normalisation are zero except for rounding,
  # which Adam would scale up to whole steps.
  tx = optax.sgd(0.05, momentum=0.9) if norm == "batch" else optax.adam(1e-3)
  setup = setup._replace(expert_tx=tx, discriminator_tx=tx)
  state = expected = make_state(setup, seed=11)
  assert state.memory == {}
  paper = jax.jit(functools.partial(competition.paper_step, setup=setup))
  step = jit_step(setup)
  wins_E = np.zeros(3, int)
  for index in range(20):
    keys = jax.random.split(jax.random.key(index))
    batch = types.Batch(*(jax.random.uniform(k, (7, 8, 8, 1)) for k in keys))
    with kernels.use("xla"):
      expected = paper(expected, batch)
    with kernels.use(kernel):
      state, metrics = step(state, batch)
    assert metrics["competition/wins_E"].sum() == 7
    wins_E += metrics["competition/wins_E"]
  assert_states_close(state, expected)
  assert (wins_E > 0).sum() > 1, "one winner: this test would show little"
  assert set(metrics) == {
    "loss/expert",
    "loss/discriminator",
    "competition/wins_E",
  }


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_losers_stay_bit_identical_and_winners_move(
  norm, make_setup, make_state, make_batch
):
  setup = make_setup(norm=norm)
  state = make_state(setup, num_experts=4)
  # After a first step, optimizer states have values that could change.
  step = jit_step(setup)
  state, _ = step(state, make_batch())
  new, metrics = step(state, make_batch())
  won_E = np.asarray(metrics["competition/wins_E"]) > 0
  assert won_E.any()
  assert not won_E.all(), "no loser: this test would show nothing"

  def of_experts(state, chosen_E):
    return jax.tree.map(
      lambda a_E: a_E[chosen_E],
      (state.experts_E, state.expert_stats_E, state.expert_opt_E),
    )

  chex.assert_trees_all_equal(
    of_experts(state, ~won_E), of_experts(new, ~won_E)
  )
  for old_E, new_E in zip(
    jax.tree.leaves(state.experts_E),
    jax.tree.leaves(new.experts_E),
    strict=True,
  ):
    for e in np.flatnonzero(won_E):
      assert not np.array_equal(old_E[e], new_E[e])


@pytest.mark.parametrize("mode", MODES)
def test_permuting_experts_permutes_the_result(
  mode, make_setup, make_state, make_batch
):
  setup = make_setup(expert_map=mode)
  state, batch = make_state(setup), make_batch()
  order_E = jnp.array([2, 0, 1])

  def permute(state):
    names = [name for name in vars(state) if name.endswith("_E")]
    return state.replace(
      **{
        name: jax.tree.map(lambda a_E: a_E[order_E], getattr(state, name))
        for name in names
      }
    )

  step = jit_step(setup)
  assert_states_close(
    step(permute(state), batch)[0], permute(step(state, batch)[0])
  )


def test_losers_outputs_train_the_discriminator(
  make_setup, make_state, make_batch
):
  setup, batch = make_setup(), make_batch()
  state = make_state(setup)
  step = jit_step(setup)
  first, metrics = step(state, batch)
  loser = int(np.argmin(metrics["competition/wins_E"]))
  assert metrics["competition/wins_E"][loser] == 0
  changed = jax.tree.map(lambda a: a.at[loser].mul(1.01), state.experts_E)
  second, metrics = step(state.replace(experts_E=changed), batch)
  assert metrics["competition/wins_E"][loser] == 0
  kernel = ("Dense_0", "kernel")
  assert not np.array_equal(
    first.discriminator[kernel[0]][kernel[1]],
    second.discriminator[kernel[0]][kernel[1]],
  )


def test_the_step_is_traced_once_and_reuses_no_key(
  make_setup, make_state, make_batch
):
  setup = make_setup(remedies=(remedies.relocation(1, 0.9, 1.0, 0.1),))
  state, batch = make_state(setup), make_batch()
  with jax.debug_key_reuse(True):
    step = jax.jit(
      chex.assert_max_traces(n=1)(
        lambda s, b: competition.competition_step(s, b, setup=setup)
      )
    )
    for _ in range(3):
      state, _ = step(state, batch)
  assert int(state.step) == 3


def test_experts_start_with_different_parameters(make_setup, make_state):
  kernel_E = largest_leaf(make_state(make_setup()).experts_E)
  assert not np.array_equal(kernel_E[0], kernel_E[1])


def gains(dtype):
  """A setup with all remedies; experts have one parameter of some dtype."""

  def init(key):
    return {"gain": 1 + 0.1 * jax.random.normal(key, (1, 1, 1, 1), dtype)}, {}

  def apply(params, stats, x_BHWC, *, train):
    del train
    return jax.nn.sigmoid(x_BHWC.astype(dtype) * params["gain"]), stats

  def init_judge(key):
    return {"w": jax.random.normal(key, (64,), dtype)}, {}

  def judge(params, stats, x_BHWC, *, train):
    del train
    return x_BHWC.reshape(-1, 64).astype(dtype) @ params["w"], stats

  return types.Setup(
    types.Network(init, apply),
    types.Network(init_judge, judge),
    optax.sgd(1e-2, momentum=0.9),
    optax.sgd(1e-2),
    remedies=every_remedy(),
    losers=1,
  )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("option", ["enable_x64", "numpy_dtype_promotion"])
def test_states_keep_their_dtypes(option, dtype, make_batch):
  """Dtypes are known once a step is traced, and nothing is compiled."""
  value = "strict" if option.endswith("promotion") else True
  with getattr(jax, option)(value):
    setup, batch = gains(dtype), make_batch()
    state = competition.init_state(jax.random.key(0), setup, 3)
    after, _ = jax.eval_shape(jit_step(setup), state, batch)
    dtypes = lambda state: jax.tree.map(lambda a: a.dtype, state)
    chex.assert_trees_all_equal(dtypes(state), dtypes(after))
    restore = functools.partial(competition.restore, setup=setup)
    restored = jax.eval_shape(restore, after, batch.transformed_BHWC)
    assert restored.restored_BHWC.dtype == dtype


def test_parameters_may_have_half_precision(make_batch):
  setup = gains("bfloat16")
  state = competition.init_state(jax.random.key(0), setup, 3)
  _, metrics = jit_step(setup)(state, make_batch())
  assert np.isfinite(metrics["loss/expert"])


def every_remedy():
  """Returns all remedies, with a relocation at every step."""
  network = models.from_linen(
    models.ConvClassifier(1, features=2, hidden=8, norm="batch"), (8, 8, 1)
  )
  return (
    remedies.signature(2.0, 1.0),
    remedies.places(1.0),
    remedies.referee(1.0, network=network),
    remedies.balance(3.0),
    remedies.winner_weight(0.5),
    remedies.r1(0.1),
    remedies.contrast(0.5),
    remedies.identity(0.5),
    remedies.change(0.5),
    remedies.averages(4.0),
    remedies.relocation(1, 0.9, 1.0, 0.1),
  )


def test_a_nan_pixel_does_not_stay_in_memory(
  make_setup, make_state, make_batch
):
  tx = optax.apply_if_finite(optax.adam(1e-3), max_consecutive_errors=9)
  setup = make_setup(remedies=every_remedy())
  setup = setup._replace(expert_tx=tx, discriminator_tx=tx)
  state, batch = make_state(setup, seed=11), make_batch()
  spoilt = batch._replace(
    transformed_BHWC=batch.transformed_BHWC.at[0, 0, 0].set(jnp.nan)
  )
  step = jit_step(setup)
  state, _ = step(state, batch)
  state, metrics = step(state, spoilt)
  assert metrics["competition/wins_E"].sum() == 5
  for leaf in jax.tree.leaves(without_key(state).memory):
    assert np.isfinite(leaf).all()
  for _ in range(2):
    state, metrics = step(state, batch)
  assert np.isfinite(metrics["loss/expert"])
  assert (metrics["competition/wins_E"] > 0).sum() > 1


def test_states_serialise(make_setup, make_state):
  setup = make_setup(remedies=every_remedy())
  state, other = make_state(setup), make_state(setup, seed=1)
  data = flax.serialization.to_bytes(state)
  read = flax.serialization.from_bytes(other, data)
  chex.assert_trees_all_equal(without_key(read), without_key(state))
  assert jnp.issubdtype(read.key.dtype, jax.dtypes.prng_key)


def test_arrays_of_numpy_are_images(make_setup, make_state, make_batch):
  setup, batch = make_setup(remedies=every_remedy()), make_batch()
  state, batch = make_state(setup), jax.tree.map(np.asarray, batch)
  for given in (batch, tuple(batch)):
    step = functools.partial(
      competition.competition_step, batch=given, setup=setup
    )
    _, metrics = jax.eval_shape(step, state)
    assert metrics["competition/wins_E"].shape == (3,)


def test_states_are_arguments_of_exported_programs(
  make_setup, make_state, make_batch
):
  setup = make_setup(remedies=every_remedy())
  setup = setup._replace(
    expert_tx=optax.sgd(0.1), discriminator_tx=optax.sgd(0.1)
  )
  # The state of an optimizer is optax's to register; that of SGD is empty.
  state = make_state(setup).replace(expert_opt_E=(), discriminator_opt=())
  referee = state.memory["referee"]._replace(opt=())
  state = state.remember("referee", referee)
  x_BHWC = make_batch().transformed_BHWC
  restore = jax.jit(functools.partial(competition.restore, setup=setup))
  exported = jax.export.export(restore)(state, x_BHWC)
  read = jax.export.deserialize(exported.serialize())
  chex.assert_trees_all_close(
    read.call(state, x_BHWC), restore(state, x_BHWC), atol=1e-5
  )


def test_experts_learn_to_undo_two_mechanisms():
  """The whole method on a toy: pixels brighter or darker than canonical."""

  def init(key):
    return {"shift": 0.1 * jax.random.normal(key, ())}, {}

  def apply(params, stats, x_BHWC, *, train):
    del train
    return x_BHWC + params["shift"], stats

  def init_discriminator(key):
    del key
    return {"w": jnp.zeros(3)}, {}

  def apply_discriminator(params, stats, x_BHWC, *, train):
    del train
    mean_B = x_BHWC.mean(axis=(1, 2, 3))
    features = jnp.stack([jnp.ones_like(mean_B), mean_B, mean_B**2], axis=1)
    return features @ params["w"], stats

  setup = types.Setup(
    expert=types.Network(init, apply),
    discriminator=types.Network(init_discriminator, apply_discriminator),
    expert_tx=optax.adam(1e-2),
    discriminator_tx=optax.adam(3e-2),
  )
  state = competition.init_state(jax.random.key(0), setup, 2)
  step = jit_step(setup)
  for index in range(400):
    keys = jax.random.split(jax.random.key(index), 3)
    sign_B = jnp.where(jax.random.bernoulli(keys[0], 0.5, (16,)), 1.0, -1.0)
    canonical = lambda key: 0.1 * jax.random.normal(key, (16, 2, 2, 1))
    batch = types.Batch(
      canonical(keys[1]) + sign_B[:, None, None, None], canonical(keys[2])
    )
    state, _ = step(state, batch)
  np.testing.assert_allclose(
    np.sort(state.experts_E["shift"]), [-1.0, 1.0], atol=0.25
  )
