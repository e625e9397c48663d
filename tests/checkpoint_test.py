"""Checkpoints: restored onto any devices, read by plain Orbax, or damaged."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import types as types_lib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from icm_jax import types
from icm_jax.training import checkpoint, checksums, state_arrays

ROOT = pathlib.Path(__file__).parent.parent


@chex.dataclass(frozen=True)
class State:
  """Returns a state with a few arrays instead of networks."""

  step: jax.Array
  key: jax.Array
  layers: list


@chex.dataclass(frozen=True)
class Experts:
  """A state with three experts."""

  step: jax.Array
  experts_E: dict


def tiny_state(step=0, width=8):
  return State(
    step=jnp.int32(step),
    key=jax.random.key(3),
    layers=[{"kernel": jnp.arange(2.0 * width).reshape(width, 2)}],
  )


def save(folder, *states):
  with contextlib.closing(checkpoint.Checkpoints(folder)) as checkpoints:
    for state in states:
      checkpoints.save(checkpoint.Saved(state, {}, {"seconds": {"train": 1.5}}))


def read(folder, like):
  with contextlib.closing(checkpoint.Checkpoints(folder)) as checkpoints:
    return checkpoints.read_newest(like, {})


def test_space_is_looked_for_before_orbax_writes(tmp_path, monkeypatch):
  save(tmp_path, tiny_state(1))
  usage = types_lib.SimpleNamespace(free=checkpoint._RESERVE + 60)
  monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
  save(tmp_path, tiny_state(1))  # It is there, and nothing is written.
  for use in (
    lambda: save(tmp_path, tiny_state(2)),
    lambda: checkpoint.check_space(tmp_path / "new" / "run", tiny_state()),
  ):
    with pytest.raises(types.InputError, match=r"needs 8\.4 MB.*8\.4 MB are"):
      use()
  assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
  usage.free += 100
  save(tmp_path, tiny_state(2))


@pytest.mark.parametrize(
  ("text", "kind"),
  [
    ("RESOURCE_EXHAUSTED: ... No space left on device", types.InputError),
    ("something else", ValueError),
  ],
)
def test_a_disk_that_others_fill_meanwhile_is_told(
  text, kind, tmp_path, monkeypatch
):
  save(tmp_path, tiny_state(1))

  def fail(self, step, args):
    raise ValueError(text)

  monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
  words = "step 2 .*No space.*--resume" if kind is types.InputError else text
  with pytest.raises(kind, match=words):
    save(tmp_path, tiny_state(2))


def test_damaged_checkpoints_that_are_passed_over_are_told(tmp_path):
  save(tmp_path, tiny_state(1), tiny_state(2))
  damage(tmp_path, 2)
  with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
    assert int(checkpoints.read_newest(tiny_state(), {}).state.step) == 1
    ((step, reason),) = checkpoints.damaged.items()
  assert step == 2
  assert reason.startswith("is damaged, ")


def test_damage_is_told_from_what_does_not_fit(tmp_path):
  save(tmp_path, tiny_state(1))
  with pytest.raises(types.InputError, match="does not fit, ") as found:
    read(tmp_path, tiny_state(width=4))
  assert not isinstance(found.value, checkpoint.Damaged)
  damage(tmp_path, 1)
  with pytest.raises(checkpoint.Damaged, match="step 1 is damaged"):
    read(tmp_path, tiny_state(width=4))


def test_a_run_does_not_become_shorter(tmp_path):
  checkpoint.check_steps(tmp_path, 0, "--steps")
  save(tmp_path, tiny_state(9), tiny_state(10))
  checkpoint.check_steps(tmp_path, 10, "--steps")
  with pytest.raises(types.InputError, match="--steps asks for 9 .*done 10"):
    checkpoint.check_steps(tmp_path, 9, "--steps")


def files_of(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_any_damage_of_the_newest_checkpoint_is_noticed(damage, tmp_path):
  save(tmp_path, tiny_state(1), tiny_state(2))
  newest = tmp_path / "checkpoints" / "2"
  untold = set()
  for path in files_of(newest):
    content = path.read_bytes()
    if damage == "missing":
      path.unlink()
    elif damage == "truncated":
      path.write_bytes(content[: len(content) // 2])
    else:
      middle = len(content) // 2
      changed = bytes([byte ^ 16 for byte in content[middle : middle + 1]])
      path.write_bytes(content[:middle] + changed + content[middle + 1 :])
    opened = checkpoint.Checkpoints(tmp_path, writes=False)
    with contextlib.closing(opened) as checkpoints:
      found = checkpoints.read_newest(tiny_state(), {})
    if int(found.state.step) == 2:
      untold.add(path.name)  # Only what the state does not depend on.
      assert not checkpoints.passed_over()
      for a, b in zip(
        numbers(found.state), numbers(tiny_state(2)), strict=True
      ):
        np.testing.assert_array_equal(a, b)
    else:
      (line,) = checkpoints.passed_over()
      assert line.startswith("the checkpoint of step 2 is damaged, ")
      assert int(found.state.step) == 1
    path.write_bytes(content)
  # What Orbax writes around the items, and empty files that were cut.
  assert untold <= {
    "_CHECKPOINT_METADATA",
    "commit_success.txt",
    checksums.FILE,
  }, untold
  assert read(tmp_path, tiny_state()).state.step == 2


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path):
  with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
    for step, score in enumerate((0.1, 0.5, 0.9, 0.9, 0.2, None, 0.3), 1):
      progress = {checkpoint.SCORE: score}
      checkpoints.save(checkpoint.Saved(tiny_state(step), {}, progress))
  # Scores are read again from the folder.
  with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
    assert checkpoints.steps() == [7, 6, 4]
    checkpoints.save(checkpoint.Saved(tiny_state(8), {}, {}))
  with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
    assert checkpoints.steps() == [8, 7, 4]
  saved = checkpoint.read(tmp_path, tiny_state(), {}, steps=4)
  assert saved.progress == {checkpoint.SCORE: 0.9}


def test_only_who_writes_removes_what_killed_saves_left(tmp_path):
  save(tmp_path, tiny_state(1))
  left = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  (left / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
  assert checkpoint.read(tmp_path, tiny_state(), {}).state.step == 1
  assert left.exists()
  with contextlib.closing(checkpoint.Checkpoints(tmp_path)):
    # At once, and not while something else may be written there.
    assert [path.name for path in left.parent.iterdir()] == ["1"]
  save(tmp_path, tiny_state(2))
  assert {path.name for path in left.parent.iterdir()} == {"1", "2"}


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
  update = jax.jit(
    lambda state: state.replace(
      step=state.step + 1, layers=[{"kernel": state.layers[0]["kernel"] + 1}]
    ),
    donate_argnums=0,
  )
  state = tiny_state(1, width=1 << 16)
  expected = {}
  with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
    for _ in range(3):
      expected[int(state.step)] = np.array(state.layers[0]["kernel"])
      checkpoints.save(checkpoint.Saved(state, {}, {}))
      state = update(update(state))
  like = tiny_state(width=1 << 16)
  for step in (3, 5):
    saved = checkpoint.read(tmp_path, like, {}, steps=step)
    np.testing.assert_array_equal(
      saved.state.layers[0]["kernel"], expected[step]
    )


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
  save(tmp_path, tiny_state(1))
  kernel_EF = jnp.ones((3, 2)).at[1:, 0].set(jnp.array([jnp.nan, jnp.inf]))
  with pytest.raises(
    FloatingPointError,
    match="after step 2 is not finite: experts_E of expert 1, 2. It is not",
  ):
    save(tmp_path, Experts(step=jnp.int32(2), experts_E={"kernel": kernel_EF}))
  assert read(tmp_path, tiny_state()).state.step == 1


def test_all_experts_that_are_not_finite_are_not_told_by_number():
  bad = {"discriminator": np.float32(np.inf), "experts_E": np.full(3, np.nan)}
  found = state_arrays.not_finite(bad)
  assert found == "discriminator, experts_E of all experts"
  assert state_arrays.not_finite({"experts_E": np.full(1, np.nan)}) == (
    "experts_E of expert 0"
  )


def test_a_folder_that_vanishes_is_told(tmp_path):
  opened = checkpoint.Checkpoints(tmp_path)
  with (
    contextlib.closing(opened) as checkpoints,
    pytest.raises(types.InputError, match=r"step 2 .*\(No such file.*--resume"),
  ):
    checkpoints.save(checkpoint.Saved(tiny_state(1), {}, {}))
    checkpoints.wait()
    shutil.rmtree(tmp_path / "checkpoints")
    checkpoints.save(checkpoint.Saved(tiny_state(2), {}, {}))
  assert not (tmp_path / "checkpoints").exists()


def test_readers_need_no_folder_that_can_be_written(tmp_path):
  with pytest.raises(types.InputError, match="holds no checkpoint"):
    checkpoint.read(tmp_path, tiny_state(), {})
  assert not (tmp_path / "checkpoints").exists()
  save(tmp_path, tiny_state(1), tiny_state(2))
  damage(tmp_path, 2)
  with pytest.warns(RuntimeWarning, match="step 2 is damaged, .* before it is"):
    assert checkpoint.read(tmp_path, tiny_state(), {}).state.step == 1


def numbers(state):
  state = state.replace(key=jax.random.key_data(state.key))
  return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def damage(folder, step):
  for path in (folder / "checkpoints" / f"{step}" / "arrays").rglob("*"):
    if path.is_file():
      path.write_bytes(b"damaged")


# Saves on several of eight devices, and reads one device's checkpoint on eight.
PROGRAM = """
  import pathlib, sys
  import jax, numpy as np
  from tests import checkpoint_test as shared

  root = pathlib.Path(sys.argv[1])
  mesh = jax.make_mesh((8,), ("d",))
  sharded = jax.sharding.NamedSharding(mesh, jax.P("d"))
  replicated = jax.sharding.NamedSharding(mesh, jax.P())
  state = shared.tiny_state()
  shared.save(root / "replicated", jax.device_put(state, replicated))
  shared.save(root / "fourth", jax.device_put(state, jax.devices()[3]))
  layers = jax.device_put(state.layers, sharded)
  shared.save(root / "sharded", state.replace(layers=layers))

  like = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding),
    state.replace(layers=layers),
  )
  found = shared.read(root / "one", like).state
  kernel = found.layers[0]["kernel"]
  assert kernel.sharding == sharded, kernel.sharding
  for a, b in zip(shared.numbers(found), shared.numbers(state), strict=True):
    np.testing.assert_array_equal(a, b)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Checkpoints of one state that were saved from several placements."""
  root = tmp_path_factory.mktemp("placements")
  save(root / "one", tiny_state())
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(PROGRAM), str(root)],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    },
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return root


@pytest.mark.parametrize("name", ["one", "replicated", "fourth", "sharded"])
def test_a_checkpoint_goes_to_the_devices_that_are_there(folders, name):
  saved = read(folders / name, tiny_state())
  assert saved.progress == {"seconds": {"train": 1.5}}
  for a, b in zip(numbers(saved.state), numbers(tiny_state()), strict=True):
    np.testing.assert_array_equal(a, b)
  expected = jax.device_put(0).sharding
  for leaf in jax.tree.leaves(saved.state):
    assert leaf.sharding == expected


def test_a_device_of_another_name_makes_no_difference(tmp_path):
  save(tmp_path, tiny_state())
  path = tmp_path / "checkpoints" / "0" / "arrays" / "_sharding"
  assert "cpu:0" in path.read_text()
  path.write_text(path.read_text().replace("cpu:0", "cuda:5"))
  (path.parent / checksums.FILE).unlink()
  saved = read(tmp_path, tiny_state())
  np.testing.assert_array_equal(
    saved.state.layers[0]["kernel"], tiny_state().layers[0]["kernel"]
  )


def test_plain_orbax_reads_nested_dicts(tmp_path, make_setup, make_state):
  state = make_state(make_setup())
  save(tmp_path, state)
  folder = tmp_path.absolute() / "checkpoints" / "0" / "arrays"
  with contextlib.closing(ocp.StandardCheckpointer()) as checkpointer:
    plain = checkpointer.restore(folder)["state"]

  def check(value):
    if isinstance(value, dict | list):
      for inner in value.values() if isinstance(value, dict) else value:
        check(inner)
    else:  # Orbax reads an optimizer's empty state as None.
      assert value is None or isinstance(value, jax.Array)

  check(plain)
  assert plain["step"] == 0
  by_name = dict(state_arrays.by_name(plain))
  expected = dict(state_arrays.by_name(state))
  assert by_name.keys() == expected.keys()
  for name, array in expected.items():
    if name != "key":
      np.testing.assert_array_equal(by_name[name], array)


def test_a_damaged_step_is_passed_over_and_may_be_saved_again(tmp_path):
  save(tmp_path, tiny_state(1), tiny_state(2))
  damage(tmp_path, 2)
  with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
    saved = checkpoints.read_newest(tiny_state(), {})
    assert saved.state.step == 1
    checkpoints.save(saved._replace(state=tiny_state(2)))
  assert read(tmp_path, tiny_state()).state.step == 2


def test_the_message_describes_the_damage_of_every_step(tmp_path):
  save(tmp_path, tiny_state(1), tiny_state(2))
  damage(tmp_path, 1)
  damage(tmp_path, 2)
  with pytest.raises(
    types.InputError,
    match="All checkpoints .* are damaged: step 2 is damaged, .*; step 1 is",
  ):
    read(tmp_path, tiny_state())


@pytest.mark.parametrize(
  ("like", "message"),
  [
    (
      tiny_state(width=4),
      r"layers.0.kernel has shape \(8, 2\), expected \(4, 2\)",
    ),
    (
      tiny_state().replace(
        layers=[{"kernel": jnp.zeros((8, 2)), "bias": jnp.zeros(2)}]
      ),
      "it has no state.layers.0.bias",
    ),
    (
      tiny_state().replace(layers=[]),
      "it has state.layers.0.kernel, which is not expected",
    ),
    (tiny_state().replace(key=jnp.zeros(3)), r"key has shape \(2,\), expected"),
  ],
)
def test_a_checkpoint_of_other_networks_is_not_called_damaged(
  tmp_path, like, message
):
  save(tmp_path, tiny_state(1), tiny_state(2))
  with pytest.raises(types.InputError, match=message) as caught:
    read(tmp_path, like)
  text = str(caught.value)
  assert "step 2 does not fit" in text
  assert "step 1 does not fit" in text
  assert "version of icm-jax with which they were made" in text
  assert "damaged" not in text
  assert "another --workdir" not in text
  assert read(tmp_path, tiny_state()).state.step == 2  # Nothing was deleted.


def test_a_folder_without_checkpoints_has_its_own_message(tmp_path):
  with pytest.raises(types.InputError, match="holds no checkpoint.*--resume"):
    read(tmp_path, tiny_state())
