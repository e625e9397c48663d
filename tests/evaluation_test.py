import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import competition, mechanisms, models, types
from icm_jax.competition import remedies
from icm_jax.data import problem as problem_lib
from icm_jax.data import roles
from icm_jax.evaluation import classifier, restoration, specialisation, transfer

MECHANISMS = mechanisms.by_names(["right", "invert", "noise"], {})

PERFECT = np.array([[0, 10, 0], [9, 0, 1], [1, 0, 9]])
DOUBLE = np.array([[10, 10, 0], [0, 0, 0], [0, 0, 10]])
SPLIT = np.array([[5, 0, 0], [5, 10, 0], [0, 0, 10]])


def test_wins_are_counted():
  wins_EM = specialisation.count_wins(
    np.array([0, 0, 2]),
    np.array([1, 1, 0]),
    num_experts=3,
    num_mechanisms=2,
  )
  np.testing.assert_array_equal(wins_EM, [[0, 2], [0, 0], [1, 0]])


@pytest.mark.parametrize(
  ("wins_EM", "coverage", "matched", "owned"),
  [
    (PERFECT, 28 / 30, 28 / 30, [1, 1, 1]),
    (DOUBLE, 1.0, 20 / 30, [0, 0, 1]),
    (SPLIT, 25 / 30, 25 / 30, [0, 1, 1]),
    # More experts than mechanisms, one of them idle.
    (np.array([[0, 8], [0, 0], [8, 0]]), 1.0, 1.0, [1, 1]),
    # Fewer experts than mechanisms.
    (np.array([[4, 4]]), 1.0, 0.5, [0, 0]),
  ],
)
def test_specialisation_by_hand(wins_EM, coverage, matched, owned):
  assert specialisation.coverage(wins_EM) == pytest.approx(coverage)
  assert specialisation.matched(wins_EM) == pytest.approx(matched)
  np.testing.assert_array_equal(specialisation.owned(wins_EM), owned)
  assert specialisation.one_to_one(wins_EM) == all(owned)


def test_a_learned_mechanism_needs_nine_tenths():
  wins_EM = np.array([[89, 0], [11, 100]])
  assert not specialisation.one_to_one(wins_EM)
  assert specialisation.one_to_one(np.array([[90, 0], [10, 100]]))


@pytest.mark.parametrize(
  ("wins_EM", "active_E"),
  [
    (DOUBLE, [1, 0, 1]),
    (np.array([[89, 0], [11, 100], [0, 0]]), [1, 1, 0]),
    (np.array([[95, 3], [5, 97], [0, 0]]), [1, 1, 0]),
    (np.full((12, 1), 1) + np.eye(12, 1, dtype=int), [1] + [0] * 11),
  ],
)
def test_idle_experts_are_recognised(wins_EM, active_E):
  np.testing.assert_array_equal(specialisation.active(wins_EM), active_E)


def test_a_mechanism_is_found_when_its_expert_keeps_it():
  other = np.array([[9, 0], [1, 10]])
  lost = np.array([[5, 0], [5, 10]])
  found = specialisation.found_steps(
    [0, 50, 100, 150], np.stack([other, lost, other, other])
  )
  assert found == [100, 0]
  shared = np.array([[10, 10], [0, 0]])
  assert specialisation.found_steps([0], shared[None]) == [None, None]


def test_examples_have_every_mechanism_equally_often(drawn_problem):
  examples = restoration.make_examples(
    drawn_problem, MECHANISMS, seed=0, num_examples=100
  )
  counts = np.bincount(examples.mechanism_N)
  assert counts.max() - counts.min() <= 2
  for n in range(100):
    expected = jax.jit(MECHANISMS[examples.mechanism_N[n]])(
      jax.random.key(0), examples.clean_NHWC[n]
    )
    if examples.mechanism_N[n] < 2:  # Noise is left out.
      np.testing.assert_allclose(
        examples.transformed_NHWC[n], expected, atol=1e-6
      )
  # A repeated image has another mechanism.
  again = examples.clean_NHWC[40:80] == examples.clean_NHWC[:40]
  assert again.all()
  assert (examples.mechanism_N[40:80] != examples.mechanism_N[:40]).all()


def test_examples_need_one_image_a_mechanism(drawn_problem):
  with pytest.raises(types.InputError, match="3 mechanisms; got 2"):
    restoration.make_examples(drawn_problem, MECHANISMS, seed=0, num_examples=2)


@pytest.fixture
def perfect_setup(make_setup):
  """Expert e undoes mechanism e; D likes black images with a bright square."""

  def apply(params, stats, x_BHWC, *, train):
    del train
    undone = jnp.stack([jnp.roll(x_BHWC, -4, axis=2), 1 - x_BHWC, x_BHWC])
    return jnp.einsum("e,ebhwc->bhwc", params["choice"], undone), stats

  def discriminate(params, stats, x_BHWC, *, train):
    del params, train
    column_BW = x_BHWC.max(axis=(1, 3))
    inside = column_BW[:, 8:20].sum(axis=1) - column_BW[:, 20:].sum(axis=1)
    return inside - 50 * x_BHWC[:, 0, 0, 0], stats

  setup = make_setup((32, 32, 1))._replace(
    expert=types.Network(lambda key: ({}, {}), apply),
    discriminator=types.Network(lambda key: ({}, {}), discriminate),
  )
  return setup, {"choice": jnp.eye(3)}


def test_a_perfect_state_is_judged_perfect(
  perfect_setup, drawn_problem, make_setup, make_state
):
  setup, experts_E = perfect_setup
  state = make_state(make_setup()).replace(
    experts_E=experts_E, expert_stats_E={}, discriminator={}
  )
  network = models.from_linen(models.ConvClassifier(3), (32, 32, 1))
  params, _ = classifier.train_classifier(
    network,
    drawn_problem.images.image_NHWC,
    drawn_problem.images.label_N,
    drawn_problem.train_ids,
    seed=0,
    steps=40,
    batch_size=24,
    learning_rate=3e-3,
  )
  functions = mechanisms.by_names(["right", "invert"], {})
  test_set = restoration.TestSet(
    restoration.make_examples(
      drawn_problem, functions, seed=0, num_examples=30
    ),
    setup,
    network,
    num_mechanisms=2,
    batch_size=8,  # 8 does not divide 30, so that the last batch is cut.
  )
  values = test_set.evaluate(state, params)
  assert values["wins_EM"].sum() == 30
  assert values["wins_EM"][1, 1] == 15
  assert values["psnr_db_M"][1] == pytest.approx(100.0)
  assert (values["accuracy/clean_M"] > 0.9).all()
  assert values["accuracy/restored_M"][1] == values["accuracy/clean_M"][1]
  assert values["accuracy/transformed_M"][1] < 0.9


def test_restoring_takes_the_best_output(make_setup, make_state, make_batch):
  setup = make_setup(remedies=(remedies.relocation(1),))
  state, x_BHWC = make_state(setup), make_batch().transformed_BHWC
  restore = jax.jit(functools.partial(competition.restore, setup=setup))
  restored = restore(state, x_BHWC)
  for b, winner in enumerate(np.asarray(restored.winner_B)):
    assert restored.score_EB[winner, b] == restored.score_EB[:, b].max()
    np.testing.assert_array_equal(
      restored.restored_BHWC[b], restored.output_EBHWC[winner, b]
    )
  best = int(restored.winner_B[0])
  memory = state.memory["relocation"]
  memory = memory._replace(retired_E=memory.retired_E.at[best].set(True))
  retired = restore(state.remember("relocation", memory), x_BHWC)
  assert best not in retired.winner_B


def test_the_classifier_never_reads_the_test_part(drawn_problem):
  network = models.from_linen(models.ConvClassifier(3, 2, 4), (32, 32, 1))
  train = functools.partial(
    classifier.train_classifier,
    network,
    target_N=drawn_problem.images.label_N,
    ids=drawn_problem.train_ids,
    seed=0,
    steps=2,
    batch_size=8,
    learning_rate=1e-3,
  )
  image_NHWC = drawn_problem.images.image_NHWC
  params = train(image_NHWC)
  image_NHWC = np.array(image_NHWC)
  image_NHWC[drawn_problem.test_ids] = 0
  without = train(image_NHWC)
  for a, b in zip(
    jax.tree.leaves(params), jax.tree.leaves(without), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_uint8_becomes_the_unit_range():
  x = np.array([0, 51, 255], np.uint8)
  np.testing.assert_allclose(problem_lib.to_float(x), [0.0, 0.2, 1.0])


def test_groups_are_judged_without_clean_images(
  perfect_setup, drawn, make_setup, make_state
):
  setup, experts_E = perfect_setup
  state = make_state(make_setup()).replace(
    experts_E=experts_E, expert_stats_E={}, discriminator={}
  )
  rules = roles.Roles("label=0", {"one": "label=1", "two": "label=2"})
  problem = problem_lib.make_problem(drawn._replace(roles=rules), seed=0)
  examples = restoration.make_examples(problem, (), seed=0, num_examples=12)
  assert examples.clean_NHWC is None
  assert examples.label_N is None
  assert np.bincount(examples.mechanism_N).tolist() == [6, 6]
  test_set = restoration.TestSet(
    examples, setup, None, num_mechanisms=2, batch_size=5
  )
  values = test_set.evaluate(state, {})
  assert values["wins_EM"].sum() == 12
  assert set(values) == {"wins_EM", "score_EM", "coverage", "matched"}


def test_experts_are_measured_on_another_data_set(
  perfect_setup, drawn_problem, make_setup, make_state
):
  setup, experts_E = perfect_setup
  state = make_state(make_setup()).replace(
    experts_E=experts_E, expert_stats_E={}, discriminator={}
  )
  names = ["right", "invert"]
  measured = transfer.evaluate(
    state,
    restoration.make_examples(
      drawn_problem, mechanisms.by_names(names, {}), seed=0, num_examples=30
    ),
    np.array([[9, 0], [0, 9], [1, 1]]),
    names,
    setup=setup,
    batch_size=8,
  )
  assert measured["invert"]["win_share"] == 1.0
  assert measured["invert"]["psnr_db"] == pytest.approx(100.0)
  for values in measured.values():
    assert values["psnr_db"] > values["best_other_psnr_db"]
