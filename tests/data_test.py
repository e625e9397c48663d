import gzip
import hashlib
import importlib
import pathlib

import jax
import numpy as np
import pytest

from icm_jax import mechanisms, types
from icm_jax.data import problem, sources
from icm_jax.data.builders import files, mnist

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data" / "mnist"


def idx(array: np.ndarray) -> bytes:
  """A gzipped IDX file of bytes."""
  header = bytes((0, 0, 8, array.ndim))
  sizes = np.array(array.shape, ">u4").tobytes()
  return gzip.compress(header + sizes + array.tobytes())


@pytest.fixture
def made_up_mnist(tmp_path, monkeypatch):
  """Four small files in the original layout, with checksums of their own."""
  rng = np.random.default_rng(0)
  folder = tmp_path / "manual"
  folder.mkdir()
  originals = {}
  for prefix, count in (("train", 20), ("t10k", 10)):
    originals[f"{prefix}-images-idx3-ubyte.gz"] = rng.integers(
      0, 256, (count, 28, 28), np.uint8
    )
    originals[f"{prefix}-labels-idx1-ubyte.gz"] = rng.integers(
      0, 10, count, np.uint8
    )
  listed = []
  for file in mnist.FILES:
    data = idx(originals[file.name])
    (folder / file.name).write_bytes(data)
    listed.append(file._replace(sha256=hashlib.sha256(data).hexdigest()))
  monkeypatch.setattr(mnist, "FILES", tuple(listed))
  return folder, originals


def test_mnist_is_prepared_once_and_read_exactly(
  made_up_mnist, tmp_path, capfd
):
  folder, originals = made_up_mnist
  load = lambda: sources.load(
    "mnist", data_dir=str(tmp_path / "data"), manual_dir=str(folder)
  )
  splits = load()
  for split, prefix in (("train", "train"), ("test", "t10k")):
    np.testing.assert_array_equal(
      splits[split].image_NHWC[..., 0],
      originals[f"{prefix}-images-idx3-ubyte.gz"],
    )
    np.testing.assert_array_equal(
      splits[split].label_N, originals[f"{prefix}-labels-idx1-ubyte.gz"]
    )
  for path in folder.iterdir():
    path.unlink()
  assert len(load()["train"].label_N) == 20  # Without the original files.
  assert capfd.readouterr().out == ""


def test_missing_files_are_named_with_their_folder(made_up_mnist, tmp_path):
  folder, _ = made_up_mnist
  (folder / "t10k-labels-idx1-ubyte.gz").unlink()
  with pytest.raises(types.InputError) as error:
    sources.load(
      "mnist", data_dir=str(tmp_path / "data"), manual_dir=str(folder)
    )
  assert f"Missing in {folder}: t10k-labels-idx1-ubyte.gz." in str(error.value)
  assert "--config.data.download=True" in str(error.value)


def test_files_are_looked_for_where_tfds_looks(tmp_path):
  with pytest.raises(types.InputError) as error:
    sources.load("mnist", data_dir=str(tmp_path))
  assert f"Missing in {tmp_path / 'downloads' / 'manual'}: train-images" in str(
    error.value
  )


def test_a_damaged_file_is_found_before_it_is_read(made_up_mnist, tmp_path):
  folder, _ = made_up_mnist
  path = folder / "train-images-idx3-ubyte.gz"
  data = bytearray(path.read_bytes())
  data[100] ^= 1
  path.write_bytes(data)
  load = lambda: sources.load(
    "mnist", data_dir=str(tmp_path / "data"), manual_dir=str(folder)
  )
  with pytest.raises(types.InputError, match="damaged: its SHA-256 is"):
    load()
  data[100] ^= 1
  path.write_bytes(data)
  assert len(load()["test"].label_N) == 10  # Nothing half-made is in the way.


def test_downloads_happen_only_on_request(made_up_mnist, tmp_path):
  folder, _ = made_up_mnist
  asked = []

  class Network:
    def download(self, url):
      asked.append(url)
      return backup

  backup = tmp_path / "backup"
  name = "train-images-idx3-ubyte.gz"
  (folder / name).rename(backup)
  with pytest.raises(types.InputError, match="Missing"):
    files.locate(mnist.FILES, Network(), folder, download=False)
  assert not asked
  paths = files.locate(mnist.FILES, Network(), folder, download=True)
  assert [url.rsplit("/")[-1] for url in asked] == [name]
  assert paths[name] == backup


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"no gzip", "cannot be unpacked"),
    (idx(np.zeros((4, 5), np.uint8))[:-9], "cannot be unpacked"),
    (gzip.compress(b""), "starts with nothing"),
    (gzip.compress(b"\0\0\x0d\x01" + b"\0" * 8), "starts with 00000d01"),
    (gzip.compress(b"\0\0\x08\x02\0\0"), "cut short"),
    (gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc"), "cut short"),
    (gzip.compress(b"\0\0\x08\x01\0\0\0\x02abc"), "promises shape"),
  ],
)
def test_damaged_idx_files_are_refused(data, message, tmp_path):
  path = tmp_path / "file.gz"
  path.write_bytes(data)
  with pytest.raises(types.InputError, match=message):
    mnist.read_idx(path)


def test_unknown_data_sets_are_told_the_known_ones():
  with pytest.raises(types.InputError, match="'nmist'; known: mnist_5k, mnist"):
    sources.load("nmist")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(types.InputError, match="cannot be prepared in"):
    sources.load("mnist_5k", data_dir=str(tmp_path / "file" / "data"))


def test_builders_stand_beside_those_of_tfds():
  stock = importlib.import_module(
    "tensorflow_datasets.image_classification.mnist"
  )
  assert stock.MNIST.name == mnist.Mnist.name == "mnist"
  assert mnist.Mnist5k.name == "mnist_5k"


def test_the_embedded_digits(tmp_path):
  splits = sources.load("mnist_5k", data_dir=str(tmp_path))
  for split, per_class in (("train", 400), ("test", 100)):
    images = splits[split]
    np.testing.assert_array_equal(np.bincount(images.label_N), [per_class] * 10)
    assert images.image_NHWC.shape == (10 * per_class, 28, 28, 1)
    assert images.image_NHWC.dtype == np.uint8
    assert images.image_NHWC.max() == 255
  rows = {
    split: {image.tobytes() for image in images.image_NHWC}
    for split, images in splits.items()
  }
  assert not rows["train"] & rows["test"]
  # Zeros are round: the middle is empty, unlike that of ones.
  mean_KHW = [
    splits["train"].image_NHWC[splits["train"].label_N == k].mean(axis=0)
    for k in (0, 1)
  ]
  assert mean_KHW[0][13:15, 13:15].mean() < 30 < mean_KHW[1][13:15].max()


@pytest.mark.skipif(
  not SHARED.is_dir(),
  reason="needs the four original files of MNIST in ../shared/data/mnist",
)
def test_the_original_files_are_the_published_ones():
  paths = files.locate(mnist.FILES, None, SHARED, download=False)
  images = mnist.read_idx(paths["t10k-images-idx3-ubyte.gz"])
  labels = mnist.read_idx(paths["t10k-labels-idx1-ubyte.gz"])
  assert images.shape == (10_000, 28, 28)
  assert labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_the_halves_are_disjoint_and_use_all(drawn_problem):
  transformed = set(drawn_problem.transformed_ids.tolist())
  canonical = set(drawn_problem.canonical_ids.tolist())
  assert not transformed & canonical
  assert transformed | canonical == set(range(120))
  assert abs(len(transformed) - len(canonical)) <= 1


def test_batches_keep_to_their_halves(drawn_splits):
  # Every image is stamped with its index, in the two lowest corners.
  train = drawn_splits["train"]
  stamped = np.array(train.image_NHWC)
  stamped[:, 27, 27, 0] = np.arange(120)
  made = problem.make_problem(
    "stamped",
    {**drawn_splits, "train": train._replace(image_NHWC=stamped)},
    image_size=28,
    seed=3,
  )
  for step in range(12):
    raw = problem.draw_raw(made, seed=3, step=step, batch_size=7)
    for images, ids in (
      (raw.source_BHWC, made.transformed_ids),
      (raw.canonical_BHWC, made.canonical_ids),
    ):
      assert set(images[:, 27, 27, 0].tolist()) <= set(ids.tolist())


def test_halves_depend_on_the_seed_only(drawn_splits):
  make = lambda seed: (
    problem.make_problem(
      "drawn", drawn_splits, image_size=32, seed=seed
    ).transformed_ids
  )
  np.testing.assert_array_equal(make(1), make(1))
  assert not np.array_equal(make(1), make(2))


def test_digits_are_padded_in_the_middle(drawn_problem, drawn_splits):
  image_NHWC = drawn_problem.train.image_NHWC
  assert image_NHWC.shape == (120, 32, 32, 1)
  np.testing.assert_array_equal(
    image_NHWC[:, 2:-2, 2:-2], drawn_splits["train"].image_NHWC
  )
  assert not image_NHWC[:, :2].any()


@pytest.mark.parametrize("size", [27, 0, -3])
def test_images_must_fit(size, drawn_splits):
  with pytest.raises(types.InputError, match=f"at least 28.*got {size}"):
    problem.make_problem("drawn", drawn_splits, image_size=size, seed=0)


def test_the_batch_of_a_step_is_a_pure_function():
  pool = np.arange(100, 123)
  draw = lambda step, seed=0, name="a": problem.draw_ids(
    pool, seed=seed, name=name, step=step, batch_size=5
  ).tolist()
  late = draw(9)
  for step in range(9):
    draw(step)
  assert draw(9) == late
  assert draw(9, seed=1) != late
  assert draw(9, name="b") != late
  first_epoch = [i for step in range(4) for i in draw(step)]
  assert len(set(first_epoch)) == 20
  assert first_epoch != [i for step in range(4, 8) for i in draw(step)]


@pytest.mark.parametrize("batch_size", [0, 24])
def test_a_batch_larger_than_the_data_is_refused(batch_size):
  with pytest.raises(types.InputError, match=f"at most 23.*got {batch_size}"):
    problem.draw_ids(
      np.arange(23), seed=0, name="a", step=0, batch_size=batch_size
    )


def test_a_batch_distorts_the_sources_only(drawn_problem):
  functions = mechanisms.by_names(["invert"], {})
  raw = problem.draw_raw(drawn_problem, seed=0, step=0, batch_size=4)
  with jax.debug_key_reuse(True):
    batch = problem.make_batch(jax.random.key(0), 0, raw, functions)
  np.testing.assert_allclose(
    batch.transformed_BHWC, 1 - raw.source_BHWC / np.float32(255), atol=1e-6
  )
  np.testing.assert_allclose(
    batch.canonical_BHWC, raw.canonical_BHWC / np.float32(255), atol=1e-6
  )
