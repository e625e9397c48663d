"""What is exported, read again without this package."""

import json
import pathlib
import re
import subprocess
import sys
import types as types_lib

import jax
import numpy as np
import pytest
import yaml
from safetensors import numpy as safetensors

import icm_jax
from experiments import export as program
from experiments import launch
from icm_jax import types
from icm_jax.learned import model_card

ROOT = pathlib.Path(__file__).parents[2]
IMAGES = np.random.default_rng(0).random((5, 32, 32, 1), np.float32)


def start(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "experiments.export", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
  """The folder that the program writes."""
  out = tmp_path_factory.mktemp("exported") / "out"
  done = start(f"--workdir={trained}", f"--out={out}")
  assert done.returncode == 0, done.stderr
  return out


def test_the_cards_lines_restore_in_a_process_without_this_package(
  exported, trained
):
  assert sorted(path.name for path in exported.iterdir()) == sorted(
    [program.PROGRAM, program.PARAMETERS, program.NETWORKS, program.CARD]
  )
  card = (exported / program.CARD).read_text()
  (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
  assert "np.zeros((7, 32, 32, 1)" in code
  np.save(exported / "images.npy", IMAGES)
  code = re.sub(r"np\.zeros\(.*\)", 'np.load("images.npy")', code)
  code = f"""
import sys

class Refuse:
  def find_spec(name, path=None, target=None):
    assert name.partition(".")[0] not in ("icm_jax", "flax", "orbax"), name

sys.meta_path.insert(0, Refuse)
{code}
assert restore.platforms == ("cpu", "cuda", "tpu")
assert restore.call(images[:2])["winner"].shape == (2,)
np.savez("found", **found)
"""
  done = subprocess.run(
    [sys.executable, "-P", "-c", code],
    cwd=exported,
    capture_output=True,
    text=True,
    check=False,
  )
  assert not done.returncode, done.stderr
  found = np.load(exported / "found.npz")
  expected = icm_jax.load(trained).restore(IMAGES)
  np.testing.assert_allclose(
    found["restored"], expected.restored_BHWC, atol=1e-5
  )
  np.testing.assert_array_equal(found["winner"], expected.winner_B)
  np.testing.assert_allclose(found["score"], expected.score_B, atol=1e-4)
  np.testing.assert_allclose(found["change"], expected.change_B, atol=1e-4)


def test_parameters_are_those_of_the_run(exported, trained):
  arrays = safetensors.load_file(exported / program.PARAMETERS)
  state = icm_jax.load(trained).state
  leaves = jax.tree.leaves(state.experts_E)
  assert sum(name.startswith("experts.") for name in arrays) == len(leaves)
  for name, tree in (
    ("experts", state.experts_E),
    ("expert_stats", state.expert_stats_E),
    ("discriminator", state.discriminator),
  ):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      inside = jax.tree_util.keystr(path, simple=True, separator=".")
      np.testing.assert_array_equal(arrays.pop(f"{name}.{inside}"), leaf)
  assert not arrays
  networks = json.loads((exported / program.NETWORKS).read_text())
  assert networks["image_shape"] == [32, 32, 1]
  assert networks["experts"]["count"] == 3


def test_the_card_says_what_the_hub_and_people_want_to_know(exported):
  card = (exported / program.CARD).read_text()
  _, header, page = card.split("---\n", 2)
  header = yaml.safe_load(header)
  assert header["library_name"] == "icm-jax"
  assert {"license", "license_name", "license_link"} <= set(header)
  (index,) = header["model-index"]
  (result,) = index["results"]
  metrics = {metric["type"]: metric["value"] for metric in result["metrics"]}
  assert set(metrics) == {"one_to_one", "accuracy", "psnr"}
  for words in ("Data", "Results", "Limits", "| invert |", "Attribution-Share"):
    assert words in page


def test_the_card_names_no_folder_of_this_machine(trained):
  learned = icm_jax.load(trained, steps=2)
  config = learned.config.copy_and_resolve_references()
  with config.unlocked():
    config.data.name = "folders:/home/me/clean,/home/me/dirty"
  own = learned.__class__(**{**vars(learned), "config": config})
  card = model_card.write(
    own, program="p", parameters="w", networks="n", platforms=("cpu",)
  )
  assert "own pictures (clean, dirty)" in card
  assert "/home/me" not in card
  assert "Nothing was measured" in card
  assert "not known" in card
  assert "model-index" not in card


def test_files_are_overwritten_only_when_allowed(exported, trained):
  flags = (f"--workdir={trained}", f"--out={exported}")
  again = start(*flags)
  assert again.returncode == 2
  assert "and 3 more files would be overwritten" in again.stderr
  again = start(f"--workdir={trained}", f"--out={exported / program.CARD}")
  assert again.returncode == 2
  assert "is a file, not a folder" in again.stderr


class Hub:
  """A client that remembers what it was asked for."""

  def __init__(self):
    self.asked = []

  def create_repo(self, repo_id, *, private, exist_ok):
    self.asked.append((repo_id, private, exist_ok))

  def upload_folder(self, *, repo_id, folder_path, allow_patterns):
    if repo_id == "me/refused":
      raise OSError("not logged in.")
    self.asked.append((repo_id, folder_path, sorted(allow_patterns)))
    return types_lib.SimpleNamespace(commit_url="address")


def test_uploads_hold_the_exported_files_only(monkeypatch, tmp_path):
  hub = Hub()
  client = types_lib.SimpleNamespace(HfApi=lambda: hub)
  monkeypatch.setitem(sys.modules, "huggingface_hub", client)
  assert program.push(tmp_path, "me/run") == "address"
  assert hub.asked == [
    ("me/run", True, True),
    ("me/run", tmp_path, sorted(program.FILES)),
  ]
  with pytest.raises(launch.Failed, match=r"me/refused failed: not logged in"):
    program.push(tmp_path, "me/refused")


def test_a_missing_client_is_told(monkeypatch):
  monkeypatch.setattr(program.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(types.InputError, match=r"icm-jax\[hub\]"):
    program.check_hub()
