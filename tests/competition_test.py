import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from icm_jax import competition, kernels, types
from icm_jax.competition import assign, expert_axis, losses, signature, winners
from icm_jax.kernels import convolution

MODES = ("unroll", "vmap")


def plain_step(state, batch, setup):
  """The algorithm as its definition reads: masks, no sorting, no sharing."""
  num_experts = len(state.win_share_E)

  def outputs(experts_E):
    return jax.vmap(
      lambda p, s: setup.expert.apply(p, s, batch.transformed_BHWC, train=True)
    )(experts_E, state.expert_stats_E)

  def score(discriminator, y_BHWC):
    return setup.discriminator.apply(discriminator, {}, y_BHWC, train=True)[0]

  y_EBHWC, stats_E = outputs(state.experts_E)
  score_EB = jax.vmap(lambda y: score(state.discriminator, y))(y_EBHWC)
  winner_B = score_EB.argmax(axis=0)
  mask_EB = winner_B[None] == jnp.arange(num_experts)[:, None]

  def expert_objective(experts_E):
    score_EB = jax.vmap(lambda y: score(state.discriminator, y))(
      outputs(experts_E)[0]
    )
    return jnp.mean((-jax.nn.log_sigmoid(score_EB) * mask_EB).sum(axis=0))

  def discriminator_objective(discriminator):
    real_B = score(discriminator, batch.canonical_BHWC)
    fake_EB = jax.vmap(lambda y: score(discriminator, y))(y_EBHWC)
    return -jnp.mean(jax.nn.log_sigmoid(real_B)) - jnp.mean(
      jax.nn.log_sigmoid(-fake_EB)
    )

  grads_E = jax.grad(expert_objective)(state.experts_E)
  updates_E, opt_E = jax.vmap(setup.expert_tx.update)(
    grads_E, state.expert_opt_E
  )
  moved_E = optax.apply_updates(state.experts_E, updates_E)
  won_E = mask_EB.any(axis=1)

  def keep(new_E, old_E):
    return jax.tree.map(
      lambda n, o: jnp.stack(
        [jnp.where(won_E[e], n[e], o[e]) for e in range(num_experts)]
      ),
      new_E,
      old_E,
    )

  grads = jax.grad(discriminator_objective)(state.discriminator)
  updates, opt = setup.discriminator_tx.update(grads, state.discriminator_opt)
  experts_E = keep(moved_E, state.experts_E)
  discriminator = optax.apply_updates(state.discriminator, updates)
  return state.replace(
    step=state.step + 1,
    experts_E=experts_E,
    expert_stats_E=keep(stats_E, state.expert_stats_E),
    expert_opt_E=keep(opt_E, state.expert_opt_E),
    discriminator=discriminator,
    discriminator_opt=opt,
    win_share_E=assign.remember(state.win_share_E, mask_EB.mean(axis=1)),
    signature_EE=signature.remember(state.signature_EE, score_EB, winner_B),
    average_experts_E=experts_E,
    average_discriminator=discriminator,
  )


def largest_leaf(tree):
  """As an array; a kernel, in all networks here."""
  return np.asarray(max(jax.tree.leaves(tree), key=lambda leaf: leaf.size))


jit_groups = jax.jit(winners.group_by_winner, static_argnames="size")


def without_key(state):
  return state.replace(key=jax.random.key_data(state.key))


def assert_states_close(a, b, atol=1e-5):
  chex.assert_trees_all_close(without_key(a), without_key(b), atol=atol)


def jit_step(setup):
  return jax.jit(functools.partial(competition.competition_step, setup=setup))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_step_is_the_plain_algorithm(
  mode, norm, make_setup, make_state, make_batch
):
  # Plain gradient descent: Adam divides by the gradient's size, and would
  # blow up rounding where a gradient is next to zero.
  setup = make_setup(norm=norm, expert_map=mode)._replace(
    expert_tx=optax.sgd(1.0, momentum=0.9),
    discriminator_tx=optax.sgd(1.0, momentum=0.9),
  )
  state, batch = make_state(setup), make_batch(7)
  plain = jax.jit(functools.partial(plain_step, setup=setup))
  step = jit_step(setup)
  for _ in range(2):
    expected = plain(state, batch)
    state, metrics = step(state, batch)
    assert_states_close(state, expected)
    assert metrics["competition/wins_E"].sum() == 7


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
  "winner_B",
  [[0, 1, 2, 0, 1, 2, 0], [1] * 7, [2, 2, 2, 2, 2, 0, 0]],
  ids=["even", "one wins all", "one wins none"],
)
def test_winners_gradient_is_autodiff_of_the_masked_form(
  mode, winner_B, make_setup, make_state, make_batch
):
  setup = make_setup()
  state, x_BHWC = make_state(setup), make_batch(7).transformed_BHWC
  winner_B = jnp.array(winner_B)
  wins_E = jnp.bincount(winner_B, length=3)
  cotangent_BHWC = jax.random.normal(jax.random.key(1), x_BHWC.shape)

  def masked(experts_E):
    y_EBHWC, _ = jax.vmap(
      functools.partial(setup.expert.apply, train=True), (0, 0, None)
    )(experts_E, state.expert_stats_E, x_BHWC)
    return jnp.sum(y_EBHWC[winner_B, jnp.arange(7)] * cotangent_BHWC)

  grads_E = jax.jit(
    lambda experts_E: winners.winners_gradient(
      setup.expert,
      experts_E,
      state.expert_stats_E,
      x_BHWC,
      cotangent_BHWC,
      winner_B,
      wins_E,
      mode=mode,
      pullback=None,
    )
  )(state.experts_E)
  chex.assert_trees_all_close(
    grads_E, jax.grad(masked)(state.experts_E), atol=1e-5
  )


@pytest.mark.parametrize(
  ("num_images", "num_experts", "size"), [(1, 4, 4), (11, 3, 4), (9, 12, 2)]
)
@hypothesis.settings(deadline=None, max_examples=30, database=None)
@hypothesis.given(data=st.data())
def test_groups_hold_every_image_once_and_one_expert_each(
  num_images, num_experts, size, data
):
  winner_B = np.array(
    data.draw(
      st.lists(
        st.integers(0, num_experts - 1),
        min_size=num_images,
        max_size=num_images,
      )
    )
  )
  groups = jit_groups(
    winner_B, np.bincount(winner_B, minlength=num_experts), size=size
  )
  seen = []
  for expert, image_S in zip(*map(np.asarray, groups), strict=True):
    real = image_S[image_S < num_images]
    assert (winner_B[real] == expert).all()
    seen += real.tolist()
  assert sorted(seen) == list(range(num_images))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_losers_stay_bit_identical_and_winners_move(
  norm, make_setup, make_state, make_batch
):
  setup = make_setup(norm=norm)
  state = make_state(setup, num_experts=4)
  # A first step, so that optimizer states hold something that could change.
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


def test_averages_follow_and_start_again_where_an_expert_moved(
  make_setup, make_state, make_batch
):
  relocation = types.Relocation(1, 0.9, 1.0, 0.1)
  setup = make_setup(average_steps=4.0, relocation=relocation)
  state = make_state(setup)
  state = state.replace(win_share_E=jnp.array([1.0, 0.0, 0.0]))
  new, metrics = jit_step(setup)(state, make_batch())
  moved_E = np.asarray(metrics["competition/moved_E"])
  assert 0 < moved_E.sum() < 3
  for name in ("experts_E", "discriminator"):
    for old, now, mean in zip(
      jax.tree.leaves(getattr(state, name)),
      jax.tree.leaves(getattr(new, name)),
      jax.tree.leaves(getattr(new, f"average_{name}")),
      strict=True,
    ):
      expected = 0.75 * old + 0.25 * now
      if name == "experts_E":
        np.testing.assert_array_equal(mean[moved_E], now[moved_E])
        expected = np.where(
          moved_E.reshape(-1, *[1] * (now.ndim - 1)), now, expected
        )
      np.testing.assert_allclose(mean, expected, atol=1e-6)


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
  setup = make_setup(relocation=types.Relocation(1, 0.9, 1.0, 0.1))
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


def test_experts_start_apart(make_setup, make_state):
  kernel_E = largest_leaf(make_state(make_setup()).experts_E)
  assert not np.array_equal(kernel_E[0], kernel_E[1])


@pytest.mark.parametrize("winner_weight", [0.0, 0.5])
def test_the_slopes_of_both_losses_differ_by_a_factor(winner_weight):
  score_EB = jnp.array([[-30.0, 0.3, 2.0], [-40.0, -0.1, 20.0]])
  winner_B = score_EB.argmax(axis=0)
  images_B = jnp.arange(3)

  def discriminator(score_EB):
    return losses.discriminator_loss(
      score_EB, jnp.zeros(3), winner_B, winner_weight=winner_weight
    ).mean()

  score_B = score_EB[winner_B, images_B]
  factor_B = losses.expert_to_discriminator_slope(
    score_B, 2, winner_weight=winner_weight
  )
  np.testing.assert_allclose(
    factor_B * jax.grad(discriminator)(score_EB)[winner_B, images_B],
    jax.grad(lambda s: losses.LOSSES["bce"].winner(s).mean())(score_B),
    rtol=1e-5,
  )
  lowest = losses.expert_to_discriminator_slope(jnp.array([-1e4]), 2)
  assert np.isfinite(lowest).all()


@pytest.mark.parametrize("mode", MODES)
def test_map_leading_is_vmap(mode):
  fn = lambda a, b, c: {"sum": a + b * c["x"]}
  args = (jnp.arange(3.0), jnp.float32(2.0), {"x": jnp.arange(3.0) + 1})
  out = expert_axis.map_leading(fn, (0, None, 0), mode=mode)(*args)
  np.testing.assert_allclose(out["sum"], [2.0, 5.0, 8.0])


def test_what_xla_convolves_on_cpu_is_unrolled():
  layers = (convolution.Layer(2),)
  x_EBHWC = jnp.zeros((3, 1, 4, 4, 1))
  layer = {"kernel": jnp.zeros((3, 3, 1, 2)), "bias": jnp.zeros(2)}
  parameters = {"layer_0": layer}

  def resolve(mode, stack):
    fn = jax.jit(lambda p, x: stack(x, p, layers))
    return expert_axis.resolve(mode, fn, (None, 0), parameters, x_EBHWC)

  assert resolve("auto", convolution.plain_stack) == "unroll"
  assert resolve("auto", lambda x, *_: x) == "vmap"
  assert resolve("vmap", convolution.plain_stack) == "vmap"
  way = "vmap" if kernels.is_compiled() else "unroll"
  assert resolve("auto", convolution.stack) == way


def test_unknown_maps_are_told():
  with pytest.raises(types.InputError, match="auto, unroll, vmap.*'scan'"):
    expert_axis.check("scan")


def test_assignment_by_hand():
  score_EB = jnp.array([[1.0, 2.0, 0.0], [3.0, 2.0, -1.0]])
  won = assign.assign_winners(score_EB)
  np.testing.assert_array_equal(won.winner_B, [1, 0, 0])  # A tie: the lower.
  np.testing.assert_array_equal(won.wins_E, [2, 1])
  won = assign.assign_winners(score_EB, jnp.array([1.5, 0.0]))
  np.testing.assert_array_equal(won.winner_B, [1, 1, 1])


def test_handicap_by_hand():
  share_E = jnp.array([0.5, 0.25, 0.2, 0.05])
  retired_E = jnp.zeros(4, bool)
  np.testing.assert_allclose(
    assign.handicap(share_E, retired_E, 2.0), [2.0, 0.0, 0.0, 0.0], atol=1e-6
  )
  # Without the last one, an equal share is a third.
  np.testing.assert_allclose(
    assign.handicap(share_E, retired_E.at[3].set(True), 2.0),
    [1.0, 0.0, 0.0, np.inf],
    atol=1e-6,
  )
  moved_E = assign.remember(share_E, jnp.array([0.0, 0.0, 0.0, 1.0]))
  np.testing.assert_allclose(moved_E.sum(), 1.0, atol=1e-6)
  assert moved_E[3] > share_E[3]
  assert moved_E[0] < share_E[0]


def test_losses_by_hand():
  half = jnp.log(2.0)
  np.testing.assert_allclose(
    losses.LOSSES["bce"].winner(jnp.zeros(2)), [half, half]
  )
  by_weight = lambda weight: losses.discriminator_loss(
    jnp.array([[0.0], [50.0]]),
    jnp.zeros(1),
    jnp.array([1]),
    winner_weight=weight,
  )
  np.testing.assert_allclose(by_weight(0.0), [half + (half + 50.0) / 2])
  np.testing.assert_allclose(by_weight(1.0), [half + 50.0])
  np.testing.assert_allclose(
    by_weight(0.5), (by_weight(0.0) + by_weight(1.0)) / 2
  )
  np.testing.assert_allclose(
    losses.reconstruction_loss(jnp.zeros((1, 2, 2, 1)), 0.5), [0.25]
  )
  assert (
    float(losses.LOSSES["bce"].winner(jnp.array(-1e4))) == 1e4
  )  # Still finite.


@pytest.mark.parametrize("mode", MODES)
def test_identity_start_copies_and_leaves_the_finished_alone(
  mode, make_setup, make_state, make_batch
):
  setup = make_setup(expert_map=mode)
  state = start = make_state(setup)
  x_BHWC = make_batch().transformed_BHWC
  learning_E = jnp.array([True, False, True])
  step = jax.jit(functools.partial(competition.identity_step, setup=setup))
  _, first_E = step(state, x_BHWC, x_BHWC, learning_E)
  for _ in range(60):
    state, mse_E = step(state, x_BHWC, x_BHWC, learning_E)
  assert (mse_E[learning_E] < 0.6 * first_E[learning_E]).all()
  assert mse_E[1] == first_E[1]
  chex.assert_trees_all_equal(
    jax.tree.map(lambda a: a[1], (start.experts_E, start.expert_opt_E)),
    jax.tree.map(lambda a: a[1], (state.experts_E, state.expert_opt_E)),
  )
  assert int(state.step) == 0


def test_bad_setups_are_refused(make_setup):
  setup = make_setup()
  with pytest.raises(types.InputError, match="at least 1; got 0"):
    competition.init_state(jax.random.key(0), setup, 0)
  mixing = setup._replace(discriminator=make_setup(norm="batch").expert)
  with pytest.raises(types.InputError, match="running statistics"):
    competition.init_state(jax.random.key(0), mixing, 2)


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
