"""Imports point one way, and the repository keeps its promises."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LAYERS = (
  "types",
  "rng",
  "devices",
  "mechanisms",
  "data",
  "kernels",
  "versions",
  "models",
  "competition",
  "evaluation",
  "training",
  "learned",
  "viz",
  "rim",
  "programs",
)
FILES = sorted((ROOT / "icm_jax").rglob("*.py"))
OWNERS = {  # Which folders or files alone import a package.
  "flax": ("models", "rim", "competition/state.py"),
  "orbax": ("training/checkpoint.py",),
  "matplotlib": ("viz",),
  "safetensors": ("learned/export.py",),
  "tensorboardX": ("training",),
  "tensorflow_datasets": ("data",),
  "cv2": ("evaluation/classical.py", "evaluation/detectors"),
  "onnx": ("evaluation/detectors",),
  "onnxruntime": ("evaluation/detectors",),
}


def modules_imported(path: pathlib.Path) -> set[str]:
  """Dotted names of everything that a file imports."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_imports_point_down(path):
  inside = path.relative_to(ROOT / "icm_jax")
  layer = inside.parts[0].removesuffix(".py")
  if layer == "__init__":
    allowed = {"learned"}
  else:
    allowed = {"__version__", *LAYERS[: LAYERS.index(layer) + 1]}
  for name in modules_imported(path):
    package, *rest = name.split(".")
    assert package not in ("absl", "experiments"), f"{inside} imports {name}"
    if package == "icm_jax":
      assert rest[0] in allowed, f"{inside} imports {name}"
    if package in OWNERS:
      owned = str(inside).startswith(OWNERS[package])
      assert owned, f"{inside} imports {name}"


def test_every_layer_exists():
  inside = {p.relative_to(ROOT / "icm_jax").parts[0] for p in FILES}
  assert {name.removesuffix(".py") for name in inside} - {"__init__"} == set(
    LAYERS
  )


def test_the_map_names_every_file():
  text = (ROOT / "CONTRIBUTING.md").read_text()
  for folder in ("icm_jax", "experiments", "benchmarks"):
    for path in (ROOT / folder).rglob("*.py"):
      if path.name != "__init__.py":
        name = path.relative_to(ROOT).as_posix()
        assert f"`{name}`" in text, f"CONTRIBUTING.md does not name {name}"


# Modules and functions that can run code which a file contains.
_RUNNING = frozenset(
  ["pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"]
  + ["yaml", "torch", "eval", "exec", "os.system"]
)


def runs_code(source):
  """Returns what a source imports or calls that can run a file's code."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name.split(".")[0] for alias in node.names} & _RUNNING
    elif isinstance(node, ast.ImportFrom):
      found |= {(node.module or "").split(".")[0]} & _RUNNING
    elif isinstance(node, ast.Call):
      found |= {ast.unparse(node.func)} & _RUNNING
      # `allow_pickle=False` is how code is refused.
      given = {k.arg for k in node.keywords if ast.unparse(k.value) != "False"}
      found |= given & {"shell", "allow_pickle"}
  return found


def test_no_file_can_run_code():
  for folder in ("icm_jax", "experiments"):
    for path in (ROOT / folder).rglob("*.py"):
      assert not runs_code(path.read_text()), path
  bad = "import pickle, os\neval(a)\nnp.load(a, allow_pickle=True)"
  assert not runs_code("np.load(a, allow_pickle=False)")
  assert runs_code(bad) == {"pickle", "eval", "allow_pickle"}
