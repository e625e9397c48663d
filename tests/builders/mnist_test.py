"""MNIST, its embedded digits, and Fashion-MNIST."""

import gzip
import hashlib
import importlib
import io
import pathlib
import tempfile

import numpy as np
import pytest

from icm_jax import types
from icm_jax.data import sources
from icm_jax.data.builders import files, mnist

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mnist"


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


def load(name, tmp_path, folder=""):
  return sources.load(
    name,
    image_size=28,
    data_dir=str(tmp_path / "data"),
    manual_dir=str(folder),
  )


def part(images, split):
  """Images and labels of one split."""
  chosen = images.columns["split"] == split
  return images.image_NHWC[chosen], images.label_N[chosen]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_data_are_prepared_once_and_read_exactly(
  name, made_up_mnist, tmp_path, capfd, monkeypatch
):
  folder, originals = made_up_mnist
  monkeypatch.setattr(mnist, "FASHION_FILES", mnist.FILES)
  data = load(name, tmp_path, folder)
  for split, prefix in (("train", "train"), ("test", "t10k")):
    images, labels = part(data.images, split)
    np.testing.assert_array_equal(
      images[..., 0], originals[f"{prefix}-images-idx3-ubyte.gz"]
    )
    np.testing.assert_array_equal(
      labels, originals[f"{prefix}-labels-idx1-ubyte.gz"]
    )
  assert data.terms
  for path in folder.iterdir():
    path.unlink()
  again = load(name, tmp_path, folder)  # Without the original files.
  assert len(again.images.label_N) == 30
  assert capfd.readouterr().out == ""


def test_missing_files_are_named_with_their_folder(made_up_mnist, tmp_path):
  folder, _ = made_up_mnist
  (folder / "t10k-labels-idx1-ubyte.gz").unlink()
  with pytest.raises(types.InputError) as error:
    load("mnist", tmp_path, folder)
  assert f"Missing in {folder}: t10k-labels-idx1-ubyte.gz." in str(error.value)
  assert "--config.data.download=True" in str(error.value)


def test_a_damaged_file_is_found_before_it_is_read(made_up_mnist, tmp_path):
  folder, _ = made_up_mnist
  path = folder / "train-images-idx3-ubyte.gz"
  data = bytearray(path.read_bytes())
  data[100] ^= 1
  path.write_bytes(data)
  with pytest.raises(types.InputError, match="damaged: its SHA-256 is"):
    load("mnist", tmp_path, folder)
  data[100] ^= 1
  path.write_bytes(data)
  # Nothing half-made is in the way.
  assert len(load("mnist", tmp_path, folder).images.label_N) == 30


@pytest.mark.parametrize(
  "near", ["train-images.idx3-ubyte", "Train_Images-idx3-ubyte.gz"]
)
def test_a_name_that_is_nearly_right_is_told(near, made_up_mnist, tmp_path):
  folder, _ = made_up_mnist
  name = "train-images-idx3-ubyte.gz"
  (folder / name).rename(folder / near)
  message = f"Missing in .*There is '{near}', but the file must be '{name}'"
  with pytest.raises(types.InputError, match=message):
    load("mnist", tmp_path, folder)


def test_downloads_happen_only_on_request(made_up_mnist, tmp_path, monkeypatch):
  folder, _ = made_up_mnist
  asked = []

  class Network:
    def download(self, url):
      asked.append(url)
      return backup

  def connect(address, timeout):
    assert timeout
    return io.BytesIO()

  monkeypatch.setattr(files.socket, "create_connection", connect)
  backup = tmp_path / "backup"
  name = "train-images-idx3-ubyte.gz"
  (folder / name).rename(backup)
  with pytest.raises(types.InputError, match="Missing"):
    files.locate(mnist.FILES, Network(), folder, download=False)
  assert not asked
  paths = files.locate(mnist.FILES, Network(), folder, download=True)
  assert [url.rsplit("/")[-1] for url in asked] == [name]
  assert paths[name] == backup


def test_without_a_network_a_download_fails_at_once(tmp_path, monkeypatch):
  def connect(address, timeout):
    raise OSError("Name or service not known")

  monkeypatch.setattr(files.socket, "create_connection", connect)
  manager = None  # It is not asked.
  with pytest.raises(types.InputError, match="cannot be downloaded .Name or"):
    files.locate(mnist.FILES, manager, tmp_path, download=True)


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
  # Numbers: gzip writes the time, and all processes must find the same names.
  ids=range(7),
)
def test_damaged_idx_files_are_refused(data, message, tmp_path):
  path = tmp_path / "file.gz"
  path.write_bytes(data)
  with pytest.raises(types.InputError, match=message):
    mnist.read_idx(path)


def test_builders_coexist_with_those_of_tfds():
  stock = importlib.import_module(
    "tensorflow_datasets.image_classification.mnist"
  )
  assert stock.MNIST.name == mnist.Mnist.name == "mnist"
  assert mnist.Mnist5k.name == "mnist_5k"


def test_no_temporary_folder_is_left(tmp_path, monkeypatch):
  temporary = tmp_path / "temporary"
  temporary.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(temporary))
  mnist.Mnist5k(data_dir=tmp_path / "data")
  assert not list(temporary.iterdir())


def test_the_embedded_digits(tmp_path):
  images = load("mnist_5k", tmp_path).images
  rows = {}
  for split, per_class in (("train", 400), ("test", 100)):
    image_NHWC, label_N = part(images, split)
    np.testing.assert_array_equal(np.bincount(label_N), [per_class] * 10)
    assert image_NHWC.shape == (10 * per_class, 28, 28, 1)
    assert image_NHWC.dtype == np.uint8
    assert image_NHWC.max() == 255
    rows[split] = {image.tobytes() for image in image_NHWC}
  assert not rows["train"] & rows["test"]
  # Zeros are round: the middle is empty, unlike that of ones.
  mean_KHW = [
    images.image_NHWC[images.label_N == k].mean(axis=0) for k in (0, 1)
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
