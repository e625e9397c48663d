"""Chains of experts, against every chain tried one by one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import mechanisms, types
from icm_jax.competition import chain_search
from icm_jax.evaluation import chains

NUM_EXPERTS, LENGTH = 3, 2


@pytest.fixture
def toy(make_setup, make_state):
  """Experts add numbers to pixels; D likes images whose mean is 0.5."""

  def apply(params, stats, x_BHWC, *, train):
    del train
    return x_BHWC + params["add"], stats

  def discriminate(params, stats, x_BHWC, *, train):
    del params, train
    return -10.0 * jnp.abs(x_BHWC.mean(axis=(1, 2, 3)) - 0.5), stats

  setup = make_setup()._replace(
    expert=types.Network(lambda key: ({}, {}), apply),
    discriminator=types.Network(lambda key: ({}, {}), discriminate),
  )
  state = make_state(make_setup()).replace(
    experts_E={"add": jnp.array([0.3, -0.2, 0.25])},
    expert_stats_E={},
    discriminator={},
  )
  return setup, state


def run(toy, means, **options):
  setup, state = toy
  x_BHWC = jnp.array(means)[:, None, None, None] + jnp.zeros((1, 2, 2, 1))
  find = functools.partial(
    chain_search.search, setup=setup, max_length=LENGTH, **options
  )
  return jax.device_get(jax.jit(find)(state, x_BHWC))


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_chains(toy, margin):
  means = [0.5, 0.2, 0.4, 0.9, -0.1, 0.0]
  found = run(toy, means, width=NUM_EXPERTS, margin=margin)
  add_E = np.array([0.3, -0.2, 0.25])
  for b, mean in enumerate(means):
    values = {
      chain: -10 * abs(mean + add_E[list(chain)].sum() - 0.5)
      - margin * len(chain)
      for length in range(LENGTH + 1)
      for chain in itertools.product(range(NUM_EXPERTS), repeat=length)
    }
    chain = tuple(e for e in found.expert_BL[b] if e != chain_search.NONE)
    assert len(chain) == found.length_B[b]
    assert values[chain] == pytest.approx(max(values.values()), abs=1e-4)
    np.testing.assert_allclose(
      found.restored_BHWC[b], mean + add_E[list(chain)].sum(), atol=1e-5
    )
    assert found.score_B[b] == pytest.approx(
      values[chain] + margin * len(chain), abs=1e-4
    )


def test_greedy_follows_one_chain_and_the_gate_leaves_clean_images_alone(toy):
  # 0.3 is nearest at first, and then 0.25 leads away: 0.25 twice was best.
  found = run(toy, [0.5, 0.45, 0.0], width=1, margin=1.0)
  np.testing.assert_array_equal(found.length_B, [0, 0, 2])
  np.testing.assert_array_equal(found.expert_BL[2], [0, 2])
  beam = run(toy, [0.0], width=2, margin=1.0)
  np.testing.assert_array_equal(beam.expert_BL[0], [2, 2])


@pytest.mark.parametrize(
  ("changed", "margin"), [(0.0, 3.0), (1 / 3, 1.5), (1.0, 0.0)]
)
def test_few_clean_images_gain_more_than_the_margin(toy, changed, margin):
  setup, state = toy
  # The best experts add -0.2, 0.25, 0.25 and 0.3, for -2, -1.5, 1.5 and 3.
  means = np.array([0.5, 0.45, 0.3, 0.2], np.float32)
  clean_NHWC = np.tile(means[:, None, None, None], (1, 2, 2, 1))
  found = chains.find_margin(
    state, clean_NHWC, setup=setup, changed=changed, batch_size=3
  )
  assert found == pytest.approx(margin, abs=1e-4)
  opened = run(toy, means, width=1, margin=found + 1e-3).length_B > 0
  assert opened.mean() <= changed


def test_rows_keep_the_digit_in_the_frame():
  names = ["up", "down", "right", "up_right", "invert"]
  functions = mechanisms.by_names(names, {"shift": {"pixels": 3}})
  moves = [mechanisms.displacement(function) for function in functions]
  assert moves == [(3, 0), (-3, 0), (0, 3), (3, 3), (0, 0)]
  pairs = {
    tuple(names[m] for m in row) for row in chains.compositions(functions, 2)
  }
  assert {("up", "right"), ("up", "down"), ("up_right", "down")} <= pairs
  assert not pairs & {("up", "up_right"), ("up_right", "right"), ("up", "up")}
  assert chains.compositions(functions, 0) == [()]
  # Back inside in the end is not enough.
  assert (0, 3, 1) not in chains.compositions(functions, 3)


def test_a_state_is_measured_by_number_of_mechanisms(toy, drawn_problem):
  setup, state = toy

  def classify(params, stats, x_BHWC, *, train):
    del params, train
    return jnp.eye(3)[jnp.zeros(x_BHWC.shape[0], int)], stats

  measured = chains.evaluate(
    state,
    {},
    drawn_problem,
    mechanisms.by_names(["right", "invert"], {}),
    ["right", "invert"],
    setup=setup,
    classifier=types.Network(lambda key: ({}, {}), classify),
    seed=0,
    examples=7,
    batch_size=3,
    max_length=LENGTH,
    width=2,
    margin=1.0,
  )
  assert set(measured["by_length"]) == {"0", "1", "2"}
  for values in measured["by_length"].values():
    assert set(values) == {"clean", "before", "greedy", "beam", "experts"}
    assert values["clean"] == values["before"] == values["beam"]
  assert set(measured["pairs"]) == {"right, invert", "invert, right"}


def test_each_image_has_the_mechanism_of_its_number():
  functions = mechanisms.by_names(["invert", "right"], {})
  x_BHWC = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1))
  y_BHWC = jax.jit(
    lambda x: mechanisms.apply_each(
      jax.random.key(1), x, jnp.array([1, 0, 0]), functions
    )
  )(x_BHWC)
  np.testing.assert_allclose(y_BHWC[1:], 1 - x_BHWC[1:], atol=1e-6)
  np.testing.assert_array_equal(y_BHWC[0, :, 4:], x_BHWC[0, :, :4])
