"""Installing and importing: packages that are needed, and messages."""

import ast
import configparser
import importlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import types as types_lib

import pytest
import yaml

import icm_jax

ROOT = pathlib.Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
# Packages that a step does not need. jax itself imports parts of SciPy.
HEAVY = (
  "PIL",
  "array_record",
  "cv2",
  "matplotlib",
  "ml_collections",
  "orbax",
  "scipy",
  "tensorboardX",
  "tensorflow_datasets",
)
# Refuses these packages, except modules that the imports below have loaded.
BLOCK = f"""
import sys
import chex, flax.serialization, jax, optax
brought = set(sys.modules)

class Refuse:
  def find_spec(name, path=None, target=None):
    if name.partition(".")[0] in {HEAVY}:
      raise AssertionError("imported: " + name)

sys.meta_path.insert(0, Refuse)
"""
STEP = """
import functools
import jax.numpy as jnp
from icm_jax import competition

def init(key):
  return {"gain": jax.random.uniform(key, (1, 1, 1, 1))}, {}

expert = competition.Network(
  init, lambda p, s, x_BHWC, *, train: (x_BHWC * p["gain"], s)
)
judge = competition.Network(
  init, lambda p, s, x_BHWC, *, train: (
    (x_BHWC * p["gain"]).mean((1, 2, 3)), s
  )
)
setup = competition.Setup(expert, judge, optax.adam(0.1), optax.adam(0.1))
state = competition.init_state(jax.random.key(0), setup, num_experts=2)
batch = competition.Batch(jnp.ones((3, 4, 4, 1)), jnp.ones((3, 4, 4, 1)))
step = jax.jit(functools.partial(competition.competition_step, setup=setup))
state, metrics = step(state, batch)
assert state.step == 1
"""


def run(program: str) -> None:
  """Runs a program in a process of its own; it must succeed."""
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert not done.returncode, done.stderr


def test_competition_brings_no_other_package():
  run(
    f"{BLOCK}sys.meta_path.remove(Refuse)\n"
    "import icm_jax.competition, icm_jax.mechanisms\n"
    "new = {name.partition('.')[0] for name in set(sys.modules) - brought}\n"
    f"assert not new & set({HEAVY}), new"
  )


def test_a_step_needs_no_other_package():
  run(BLOCK + STEP)


def test_restoring_needs_no_other_package():
  run(
    f"{BLOCK}{STEP}"
    "x_BHWC = batch.transformed_BHWC\n"
    "restored = competition.restore(state, x_BHWC, setup=setup)\n"
    "assert restored.restored_BHWC.shape == x_BHWC.shape"
  )


@pytest.mark.parametrize("name", icm_jax.__all__)
def test_public_names_are_there(name):
  package = importlib.import_module(f"icm_jax.{name}")
  assert package.__doc__
  assert list(package.__all__) == sorted(package.__all__, key=_isort)
  for public in package.__all__:
    if not hasattr(package, public):
      importlib.import_module(f"icm_jax.{name}.{public}")


def _isort(name: str) -> tuple[int, str]:
  """Sorts names as the linter does: constants, classes, functions."""
  return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize(
  "name", ["data", "evaluation", "learned", "training", "viz"]
)
def test_a_package_alone_brings_nothing(name):
  names = vars(importlib.import_module(f"icm_jax.{name}"))
  own = f"icm_jax.{name}."
  assert all(
    value.__name__.startswith(own)
    for value in names.values()
    if isinstance(value, types_lib.ModuleType)
  )


def test_types_are_shipped():
  assert (ROOT / "icm_jax" / "py.typed").exists()
  assert "py.typed" in SETUP["options.package_data"]["icm_jax"]


def test_messages_name_extras_that_exist():
  named = set()
  for path in (ROOT / "icm_jax").rglob("*.py"):
    named |= set(re.findall(r"icm-jax\[([\w,]+)\]", path.read_text()))
  assert {"embedded", "faces"} <= named <= set(SETUP["options.extras_require"])


def test_imported_packages_are_declared():
  text = SETUP["options"]["install_requires"]
  text += SETUP["options.extras_require"]["faces"]
  declared = set(re.findall(r"^[\w-]+", text.lower(), re.MULTILINE))
  sellers = importlib.metadata.packages_distributions()
  for path in (ROOT / "icm_jax").rglob("*.py"):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        names |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        names.add(node.module)
    names = {name.partition(".")[0] for name in names} - {"icm_jax"}
    for name in names - sys.stdlib_module_names:
      owners = {owner.replace("_", "-").lower() for owner in sellers[name]}
      assert owners & declared, f"{path} imports {name}"


def test_requirements_have_lower_bounds():
  extras = SETUP["options.extras_require"]
  for text in (
    SETUP["options"]["install_requires"],
    extras["demo"],
    extras["embedded"],
    extras["faces"],
    extras["hub"],
    extras["slurm"],
  ):
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    assert lines and all(" >=" in line for line in lines), lines
  for name in ("cuda12", "cuda13", "tpu"):
    assert extras[name].split() == [f"jax[{name}]"]


def test_the_version_is_said_once():
  assert SETUP["metadata"]["version"] == "attr: icm_jax.__version__"
  assert re.fullmatch(r"\d+\.\d+\.\d+", icm_jax.__version__)
  newest = re.search(
    r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
  )
  assert newest[1] == icm_jax.__version__


def test_the_citation_is_that_of_this_package():
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  metadata = SETUP["metadata"]
  assert citation["version"] == icm_jax.__version__
  assert citation["license"] == metadata["license"]
  assert citation["authors"] == [{"name": metadata["author"]}]
  (paper,) = citation["references"]
  assert paper["title"] == "Learning Independent Causal Mechanisms"
  assert {"cff-version", "message", "title"} <= set(citation)


@pytest.fixture
def make_environment(tmp_path):
  """Runs `environment.sh` on a machine that has made-up Pythons only.

  Each is a name and what it can do: "run", "run, be new" or all, "run, be new,
  make".
  """
  folder = tmp_path / "bin"
  folder.mkdir()

  def make(*, compiler: bool = True, **pythons):
    for name, can in pythons.items():
      (folder / name).write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"  *version_info*) exit {int('new' not in can)};;\n"
        f"  *ensurepip*) exit {int('make' not in can)};;\n"
        f"  *) echo {name} $*;;\n"
        "esac\n"
      )
      (folder / name).chmod(0o755)
    if compiler:
      (folder / "c++").symlink_to("/bin/true")
    return subprocess.run(
      ["/bin/sh", ROOT / "environment.sh", "V", "absent", *pythons],
      env={"PATH": str(folder)},
      capture_output=True,
      text=True,
      check=False,
    )

  return make


def test_the_first_python_that_will_do_makes_the_environment(make_environment):
  done = make_environment(
    old="run", bare="run, be new", good="run, be new, make", other="make"
  )
  assert done.returncode == 0
  assert done.stdout.split() == ["good", "-m", "venv", "--clear", "V"]
  assert not done.stderr


def test_a_missing_compiler_causes_a_note(make_environment):
  done = make_environment(compiler=False, good="run, be new, make")
  assert done.returncode == 0
  assert done.stderr.startswith("note: found no C++ compiler")
  assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
  ("pythons", "message"),
  [
    (
      {"old": "run"},
      "error: found no Python of version 3.11 or newer as: absent old; ",
    ),
    ({"bare": "run, be new"}, "error: bare cannot make environments; "),
  ],
)
def test_one_line_says_what_is_missing(make_environment, pythons, message):
  done = make_environment(**pythons)
  assert done.returncode == 2
  assert done.stderr.startswith(message)
  assert "make PYTHON=" in done.stderr
  assert done.stderr.count("\n") == 1
