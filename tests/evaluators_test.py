"""The table of evaluators, and the page's sections of them."""

import pytest

from experiments.configs import mnist
from icm_jax import types
from icm_jax.evaluation import evaluator, evaluators
from icm_jax.viz import sections

NOTHING = evaluator.Parts(*(None for _ in evaluator.Parts._fields))


def test_every_evaluator_has_a_section_and_a_value_in_the_config():
  assert evaluators.EVALUATORS.keys() == sections.SECTIONS.keys()
  config = mnist.get_config()
  for name, one in evaluators.EVALUATORS.items():
    assert name == one.name
    assert not one.is_asked(config)


@pytest.fixture
def table(monkeypatch):
  """Three made-up evaluators, of which two ask for the margin."""
  calls = []

  def make(name, asks):
    def build(parts):
      calls.append(f"build {name}")

      def measure(trained):
        return {"gain": trained.margin()} if asks else {"wins": trained.wins_EM}

      return measure

    return evaluator.Evaluator(
      name,
      asked_by=f"{name}.examples",
      needs=(evaluator.Need(lambda parts: parts.data != "none", "some data."),),
      build=build,
      check_installed=lambda config: calls.append(f"check {name}"),
    )

  made = {name: make(name, name != "c") for name in "abc"}
  monkeypatch.setattr(evaluators, "EVALUATORS", made)
  return calls


def asking(**examples):
  return {name: {"examples": examples.get(name, 0)} for name in "abc"}


def measure(config, find):
  built = evaluators.build(NOTHING._replace(config=config))
  margin = evaluator.Once(find)
  return evaluators.measure(built, "state", "params", "wins", margin)


def test_only_requested_evaluators_are_built_and_measured(table):
  config = asking(c=1)
  evaluators.check_installed(config)
  measured = measure(config, lambda: pytest.fail("nobody needs a margin"))
  assert table == ["check c", "build c"]
  assert measured == {"margin": None, "a": None, "b": None} | {
    "c": {"wins": "wins"}
  }


def test_the_margin_is_found_once_for_all(table):
  found = []
  measured = measure(asking(a=1, b=2), lambda: found.append(1) or 0.5)
  assert measured["a"] == measured["b"] == {"gain": 0.5}
  assert measured["margin"] == 0.5
  assert len(found) == 1


def test_unmet_needs_are_refused_before_anything_is_built(table):
  parts = NOTHING._replace(config=asking(b=1), data="none")
  with pytest.raises(
    types.InputError, match="--config.b.examples needs some data"
  ):
    evaluators.build(parts)
  assert table == []
