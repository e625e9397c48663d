"""Runs that are opened and put to use."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import icm_jax
from icm_jax import competition, types
from icm_jax.learned import loading
from icm_jax.training import run_folder

NUM_EXPERTS = 3
README = pathlib.Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def learned(trained):
  return icm_jax.load(trained)


@pytest.fixture(scope="module")
def images():
  """Five uint8 images."""
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (5, 32, 32, 1), dtype=np.uint8)


def test_a_run_says_what_it_is(learned):
  assert learned.steps == 3
  assert learned.mechanisms == ("right", "down", "invert")
  assert learned.config.experts.count == learned.num_experts == NUM_EXPERTS
  assert learned.margin == 0.25
  won = np.argmax(learned.result["wins"], axis=0)
  for m, expert in enumerate(won):
    assert learned.mechanisms[m] in learned.mechanism_of[expert].split(", ")
  assert len(learned.mechanism_of) == NUM_EXPERTS


def test_restoring_is_what_the_library_does(learned, images):
  restored, winner, score, change = learned.restore(images)
  x_BHWC = jnp.asarray(images, jnp.float32) / 255
  expected = competition.restore(learned.state, x_BHWC, setup=learned.setup)
  np.testing.assert_allclose(restored, expected.restored_BHWC, atol=1e-5)
  np.testing.assert_array_equal(winner, expected.winner_B)
  np.testing.assert_allclose(score, expected.score_EB.max(axis=0), atol=1e-5)
  np.testing.assert_allclose(
    score - change, learned.discriminator(x_BHWC), atol=1e-5
  )
  assert restored.dtype == score.dtype == change.dtype == np.float32
  assert isinstance(restored, np.ndarray)


@pytest.mark.parametrize(
  "convert",
  [
    lambda x: x.astype(np.float64) / 255,
    lambda x: jnp.asarray(x),
    lambda x: jnp.asarray(x, jnp.float32) / 255,
  ],
  ids=["float64", "jax uint8", "jax float32"],
)
def test_any_array_of_images_gives_the_same(learned, images, convert):
  expected = learned.restore(images)
  for a, b in zip(learned.restore(convert(images)), expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_any_number_of_images_gives_the_same(learned, images, monkeypatch):
  monkeypatch.setattr(loading, "BATCH_SIZE", 2)
  for size in (0, 1, 5):
    parts, whole = learned.restore(images[:size]), learned.restore(images)
    for a, b in zip(parts, whole, strict=True):
      np.testing.assert_allclose(a, b[:size], atol=1e-6)


def test_the_gate_leaves_images_alone_that_gain_little(learned, images):
  every = learned.restore(images)
  margin = float(np.median(every.change_B))
  gated = learned.restore(images, margin=margin)
  alone_B = every.change_B <= margin
  assert 0 < alone_B.sum() < len(images)
  np.testing.assert_array_equal(gated.change_B, every.change_B)
  np.testing.assert_array_equal(
    gated.winner_B, np.where(alone_B, loading.LEFT_ALONE, every.winner_B)
  )
  x_BHWC = images.astype(np.float32) / 255
  np.testing.assert_array_equal(gated.restored_BHWC[alone_B], x_BHWC[alone_B])
  np.testing.assert_array_equal(
    gated.restored_BHWC[~alone_B], every.restored_BHWC[~alone_B]
  )
  np.testing.assert_allclose(
    gated.score_B, learned.discriminator(gated.restored_BHWC), atol=1e-5
  )


def test_the_margin_can_be_found(learned, images):
  change_B = learned.restore(images).change_B
  found = learned.find_margin(images, changed=0.2)
  assert found == pytest.approx(max(0, np.quantile(change_B, 0.8)))
  with pytest.raises(types.InputError, match="at least one"):
    learned.find_margin(images[:0])


def test_a_floor_leaves_images_alone_that_stay_unlike_clean_ones(
  learned, images
):
  every = learned.restore(images)
  floor = float(np.median(every.score_B))
  gated = learned.restore(images, floor=floor)
  alone_B = every.score_B < floor
  assert 0 < alone_B.sum() < len(images)
  np.testing.assert_array_equal(gated.winner_B == loading.LEFT_ALONE, alone_B)
  chained = learned.chain(images, max_length=1, width=1, margin=-1e9)
  floored = learned.chain(
    images, max_length=1, width=1, margin=-1e9, floor=floor
  )
  np.testing.assert_array_equal(
    floored.expert_BL[:, 0] == loading.LEFT_ALONE, alone_B
  )
  for found, full in ((gated, every), (floored, chained)):
    np.testing.assert_array_equal(
      found.restored_BHWC[alone_B],
      images[alone_B].astype(np.float32) / 255,
    )
    np.testing.assert_array_equal(
      found.restored_BHWC[~alone_B], full.restored_BHWC[~alone_B]
    )
    np.testing.assert_allclose(
      found.score_B, learned.discriminator(found.restored_BHWC), atol=1e-5
    )


def test_the_floor_can_be_found(learned, images):
  score_B = learned.discriminator(images.astype(np.float32) / 255)
  found = learned.find_floor(images, below=0.2)
  assert found == pytest.approx(np.quantile(score_B, 0.2), abs=1e-5)
  with pytest.raises(types.InputError, match="at least one"):
    learned.find_floor(images[:0])


def test_experts_are_functions_with_parameters(learned, images):
  x_BHWC = jnp.asarray(images, jnp.float32) / 255
  expected = competition.restore(learned.state, x_BHWC, setup=learned.setup)
  assert len(learned.experts) == NUM_EXPERTS
  for expert, y_BHWC in zip(
    learned.experts, expected.output_EBHWC, strict=True
  ):
    np.testing.assert_allclose(expert(x_BHWC), y_BHWC, atol=1e-5)
  expert = learned.experts[0]
  grads = jax.grad(lambda params: expert.apply(params, x_BHWC).sum())(
    expert.params
  )
  assert jax.tree.structure(grads) == jax.tree.structure(expert.params)


def test_chains_undo_several_mechanisms(learned, images):
  found = learned.chain(images, max_length=2, width=2)
  assert found.expert_BL.shape == (5, 2)
  y_BHWC = images.astype(np.float32) / 255
  before_B = learned.discriminator(y_BHWC)
  for b, chain in enumerate(found.expert_BL):
    y = y_BHWC[b : b + 1]
    for expert in chain[chain != loading.LEFT_ALONE]:
      y = learned.experts[expert](y)
    np.testing.assert_allclose(found.restored_BHWC[b], y[0], atol=1e-4)
  np.testing.assert_allclose(
    found.change_B, found.score_B - before_B, atol=1e-4
  )
  with pytest.raises(types.InputError, match="at least 1; got 0 and 8"):
    learned.chain(images, max_length=0)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda x: x[0], r"\[B, 32, 32, 1\].*got \[32, 32, 1\]"),
    (lambda x: x[:, :16], r"got \[5, 16, 32, 1\]"),
    (lambda x: x.astype(np.int32), "got int32"),
    (lambda x: x.astype(np.float32), r"values from 0 to 255\. Scale"),
    (lambda x: x / np.nan, "values from nan"),
  ],
)
def test_other_images_are_refused(learned, images, make, message):
  with pytest.raises(types.InputError, match=message):
    learned.restore(make(images))


def test_a_checkpoint_is_chosen_by_its_step(trained):
  earlier = icm_jax.load(str(trained), steps=2)
  assert earlier.steps == 2
  # What the run measured is about its last checkpoint.
  assert earlier.result is None
  assert earlier.mechanism_of == ("",) * NUM_EXPERTS
  with pytest.raises(types.InputError, match="has measured no margin"):
    _ = earlier.margin
  with pytest.raises(types.InputError, match=r"of step 5; it .* 3, 2\."):
    icm_jax.load(trained, steps=5)


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(types.InputError, match="holds no run"):
    icm_jax.load(tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_run_without_a_result_is_opened(trained, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(trained, folder)
  (folder / run_folder.RESULT).unlink()
  assert icm_jax.load(folder).result is None
  (folder / run_folder.RESULT).write_text('{"steps": 3, "wi')
  with pytest.raises(types.InputError, match="is damaged, .* not valid JSON"):
    icm_jax.load(folder)
  result = json.loads((trained / run_folder.RESULT).read_text())
  for gone in ("wins", "steps"):
    damaged = {name: v for name, v in result.items() if name != gone}
    (folder / run_folder.RESULT).write_text(json.dumps(damaged))
    with pytest.raises(types.InputError, match=f"is damaged: it has no {gone}"):
      icm_jax.load(folder)
  del result["margin"]  # As of a version that did not measure it.
  (folder / run_folder.RESULT).write_text(json.dumps(result))
  assert icm_jax.load(folder).result["margin"] is None


def test_loading_reads_no_data_and_brings_no_reader_of_data(trained, tmp_path):
  content = json.loads((trained / run_folder.CONFIG).read_text())
  content["config"]["data"]["name"] = "folder:/nowhere"
  folder = tmp_path / "moved"
  shutil.copytree(trained, folder)
  (folder / run_folder.CONFIG).write_text(json.dumps(content))
  program = f"""
import sys
import numpy as np
import icm_jax
assert "jax" not in sys.modules
learned = icm_jax.load({str(folder)!r})
learned.restore(np.zeros((1, 32, 32, 1), np.uint8))
brought = {{name.partition(".")[0] for name in sys.modules}}
unused = {{"tensorflow_datasets", "PIL", "matplotlib", "array_record"}}
assert not brought & unused, brought & unused
"""
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert not done.returncode, done.stderr


def test_the_readmes_lines_run(trained, tmp_path, monkeypatch):
  code, _ = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
  assert len(code.strip().splitlines()) == 5
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs" / "mnist").symlink_to(trained)
  monkeypatch.chdir(tmp_path)
  space = {}
  exec(code, space)
  assert space["restored"].shape == (7, 32, 32, 1)


def test_values_that_rounding_moved_out_of_the_range_are_its_ends(learned):
  images = np.zeros((2, *learned.shape_HWC), np.float32)
  images[0], images[1] = -6e-8, 1 + 1e-7
  restored = learned.restore(images, margin=1e9).restored_BHWC
  np.testing.assert_array_equal(restored[0], np.zeros(learned.shape_HWC))
  np.testing.assert_array_equal(restored[1], np.ones(learned.shape_HWC))
