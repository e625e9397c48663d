"""The kinds of runs, and how programs find the kind of a run."""

import functools
import importlib
import operator
import pathlib

import ml_collections
import pytest

from experiments import kinds
from experiments.configs import mnist
from icm_jax import types
from icm_jax.training import run_folder

CONFIGS = pathlib.Path(__file__).parent.parent / "experiments" / "configs"


@pytest.mark.parametrize(
  "name", sorted(path.stem for path in CONFIGS.glob("[!_]*.py"))
)
def test_every_config_names_its_kind(name):
  module = importlib.import_module(f"experiments.configs.{name}")
  expected = "rim" if name.startswith("rim_") else "images"
  assert kinds.from_config(module.get_config()) is kinds.KINDS[expected]
  kinds.check_keys(module.get_config())


def test_a_folder_has_the_kind_of_its_config(tmp_path):
  config = ml_collections.ConfigDict({"kind": "rim"})
  run_folder.write(tmp_path, config, {})
  assert kinds.from_workdir(tmp_path) is kinds.KINDS["rim"]


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"seed": 0}, "no `kind`; it must be one of images, rim"),
    ({"kind": "text"}, "must be one of images, rim; got 'text'"),
  ],
)
def test_other_configs_are_refused(config, message):
  with pytest.raises(types.InputError, match=message):
    kinds.from_config(ml_collections.ConfigDict(config))


@pytest.mark.parametrize(
  ("missing", "message"),
  [
    ("data", "The config has no data; start from a copy"),
    ("data.augment.flip", "The config has no data.augment.flip;"),
    ("every.log", "The config has no every.log;"),
  ],
)
def test_keys_that_are_missing_are_told(missing, message):
  config = mnist.get_config("smoke").unlock()
  kinds.check_keys(config)
  *sections, name = missing.split(".")
  section = functools.reduce(operator.getitem, sections, config)
  del section[name]
  with pytest.raises(types.InputError, match=message):
    kinds.check_keys(config)


def test_a_value_is_no_section():
  config = ml_collections.ConfigDict(
    mnist.get_config("smoke").to_dict() | {"data": "mnist"}
  )
  with pytest.raises(types.InputError, match="must be a section with augment"):
    kinds.check_keys(config)
