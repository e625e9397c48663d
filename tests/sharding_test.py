"""Several devices give the numbers of one, and little crosses between them."""

import os
import pathlib
import subprocess
import sys

import pytest

from experiments.configs import mnist
from icm_jax import types
from icm_jax.training import run_folder, seeds_run, sharding

PROGRAM = pathlib.Path(__file__).parent / "distributed.py"


def test_eight_devices_agree_with_one():
  """The checks run in a process of their own, which has eight devices."""
  done = subprocess.run(
    [sys.executable, PROGRAM, "short"],
    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "9 of 9 checks passed" in done.stdout


def config_with(**values):
  config = mnist.get_config("smoke")
  config.update_from_flattened_dict(values)
  return config


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"mesh.data": 3}, "3 devices; JAX has 1"),
    ({"mesh.expert": 2}, "2 devices; JAX has 1"),
    ({"mesh.data": -1}, "must be at least 0; got -1"),
    ({"mesh.expert": 0}, "must be at least 1; got 0"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(values, message):
  with pytest.raises(types.InputError, match=message):
    sharding.make_mesh(config_with(**values))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"mesh.data": 8}, "batch_size=4 must be a multiple of the 8 devices"),
    ({"mesh.data": 2, "mesh.expert": 2}, "must divide the 3 experts"),
    ({"mesh.data": 4}, "must be a multiple of 4 times 4, the rows"),
  ],
)
def test_parts_must_be_equal(values, message, monkeypatch):
  monkeypatch.setattr(sharding.jax, "device_count", lambda: 8)
  with pytest.raises(types.InputError, match=message):
    sharding.make_mesh(config_with(**values))


def test_seeds_at_once_take_no_mesh(tmp_path):
  config = config_with(**{"mesh.expert": 2})
  with pytest.raises(types.InputError, match="divided over devices by seed"):
    seeds_run.train(config, tmp_path, [0, 1], resume=[False, False])
  assert not list(tmp_path.iterdir())


def test_one_device_has_no_mesh():
  assert sharding.make_mesh(config_with()) is None
  assert sharding.make_mesh(config_with(**{"mesh.data": 1})) is None


def test_a_run_may_be_resumed_on_another_mesh(tmp_path):
  run_folder.write(tmp_path, config_with(), {})
  run_folder.claim(tmp_path, config_with(**{"mesh.data": 1}), resume=True)
