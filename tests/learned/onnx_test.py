"""Experts as ONNX, which another environment writes (`make onnx`)."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import export as program
from experiments import launch
from experiments.configs import faces_small, mnist, unknown_count
from icm_jax import types
from icm_jax.learned import export, loading
from icm_jax.training import atomic_files, networks

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = ROOT / ".venv-onnx" / "bin" / "python"
needs_environment = pytest.mark.skipif(
  not PYTHON.exists(), reason="there is no .venv-onnx; make onnx makes it"
)


@pytest.fixture
def make_learned():
  """A function that makes what a run of a config could have learned."""
  rng = np.random.default_rng(0)

  def draw(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      return jnp.float32(rng.normal(0, 0.2, leaf.shape))
    return jnp.zeros(leaf.shape, leaf.dtype)

  def make(config, shape_HWC, retired=()):
    setup = networks.make_setup(config, shape_HWC)
    state, _ = networks.abstract_state(config, setup, None)
    state = jax.tree.map(draw, state)
    # Variances are positive.
    positive = jax.tree.map(jnp.abs, state.expert_stats_E)
    state = state.replace(expert_stats_E=positive)
    if retired:
      recall = state.memory["relocation"]
      gone_E = jnp.isin(jnp.arange(len(recall.retired_E)), jnp.array(retired))
      recall = recall._replace(retired_E=gone_E)
      state = state.replace(memory={**state.memory, "relocation": recall})
    state = setup.through("test_state", state)  # As `loading.load` does.
    return loading.Learned(
      pathlib.Path("run"), config, 0, shape_HWC, ("m",), None, setup, state
    )

  return make


def write(learned, out):
  out.mkdir()
  (out / program.PARAMETERS).write_bytes(export.parameters(learned))
  atomic_files.write_json(out / program.NETWORKS, export.networks(learned))


def changed(config, **values):
  with config.unlocked():
    config.update_from_flattened_dict(values)
  return config


@needs_environment
@pytest.mark.parametrize("name", ["normalised", "copies", "faces", "retired"])
def test_the_model_computes_what_the_run_does(name, make_learned, tmp_path):
  learned = {
    "normalised": lambda: make_learned(
      changed(
        mnist.get_config("smoke"),
        **{"experts.norm": "batch", "identity.by_construction": False},
      ),
      (16, 16, 1),
    ),
    "copies": lambda: make_learned(
      changed(mnist.get_config("smoke"), **{"identity.by_construction": True}),
      (16, 16, 1),
    ),
    "faces": lambda: make_learned(faces_small.get_config("smoke"), (16, 16, 3)),
    "retired": lambda: make_learned(
      unknown_count.get_config("smoke"), (16, 16, 1), retired=[0, 2, 3]
    ),
  }[name]()
  out = tmp_path / "out"
  write(learned, out)
  text = program.write_onnx(learned, out, str(PYTHON))
  (off,) = re.findall(r"at most ([\d.e+-]+) in pixels", text)
  assert float(off) < 1e-4
  assert (out / program.MODEL).exists()


def test_retired_experts_are_named(make_learned):
  config = unknown_count.get_config("smoke")
  learned = make_learned(config, (16, 16, 1), retired=[0, 2, 3])
  assert export.networks(learned)["retired"] == [0, 2, 3]


def test_runs_whose_winners_depend_on_more_than_scores_are_refused(
  make_learned, tmp_path
):
  config = changed(mnist.get_config("smoke"), **{"remedies.places.weight": 1.0})
  learned = make_learned(config, (16, 16, 1))
  assert export.deciding_remedies(learned) == ["places"]
  with pytest.raises(types.InputError, match="places decides too"):
    program.write_onnx(learned, tmp_path, "nowhere")
  plain = make_learned(mnist.get_config("smoke"), (16, 16, 1))
  assert export.deciding_remedies(plain) == []


def test_what_is_missing_is_told(make_learned, tmp_path):
  learned = make_learned(mnist.get_config("smoke"), (16, 16, 1))
  with pytest.raises(
    types.InputError, match=r"nowhere cannot be run \(No such"
  ):
    program.write_onnx(learned, tmp_path, "nowhere")
  poor = tmp_path / "poor"
  poor.write_text(
    "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'jax2onnx'\" >&2\n"
    "exit 1\n"
  )
  poor.chmod(0o755)
  with pytest.raises(types.InputError, match=r"lacks a package .*jax2onnx"):
    program.write_onnx(learned, tmp_path, str(poor))


def test_a_model_that_computes_something_else_is_removed(
  make_learned, tmp_path
):
  learned = make_learned(mnist.get_config("smoke"), (16, 16, 1))
  (tmp_path / program.MODEL).touch()
  other = tmp_path / "other"
  other.write_text(
    "#!/bin/sh\n"
    """echo '{"restored": 0.2, "winner": 1, "score": 0, "change": 0}'\n"""
  )
  other.chmod(0o755)
  with pytest.raises(launch.Failed, match="computes something else"):
    program.write_onnx(learned, tmp_path, str(other))
  assert not (tmp_path / program.MODEL).exists()


def test_the_page_names_the_environment():
  pins = [
    line
    for line in (ROOT / "experiments" / "onnx_requirements.txt")
    .read_text()
    .splitlines()
    if line[0] != "#"
  ]
  page = (ROOT / "docs" / "use.md").read_text()
  assert re.findall(r"[\w-]+==[\d.]+", page) == pins
