import io
import pathlib
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from icm_jax import types
from icm_jax.data import roles, sources
from icm_jax.data.builders import mnist_c

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mnist_c"


def npy(array) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()


def images(count: int = 3, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, 28, 28, 1), np.uint8)


def tree(**counts: int) -> dict[str, bytes]:
  """Files of the benchmark's layout, with as many images as asked for."""
  contents = {}
  for seed, (name, count) in enumerate(counts.items()):
    contents[f"{name}/test_images.npy"] = npy(images(count, seed))
    # The published labels are of another integer type than ours.
    contents[f"{name}/test_labels.npy"] = npy(np.arange(count) % 10)
    contents[f"{name}/train_images.npy"] = b"not read"
  return contents


def write(manual: pathlib.Path, contents: dict[str, bytes]) -> None:
  for name, data in contents.items():
    path = manual / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_zip(manual: pathlib.Path, contents: dict[str, bytes]) -> None:
  manual.mkdir(exist_ok=True)
  with zipfile.ZipFile(manual / "mnist_c.zip", "w") as archive:
    for name, data in contents.items():
      archive.writestr(name, data)


@pytest.fixture
def manual(tmp_path):
  return tmp_path / "manual"


def load(tmp_path: pathlib.Path, manual: pathlib.Path) -> sources.DataSet:
  return sources.load(
    "mnist_c",
    image_size=28,
    data_dir=str(tmp_path / "data"),
    manual_dir=str(manual),
  )


def refused(tmp_path: pathlib.Path, match: str) -> None:
  """Preparing fails with one line, and leaves no file."""
  builder = mnist_c.MnistC(
    manual_dir=tmp_path / "manual", data_dir=tmp_path / "data"
  )
  with pytest.raises(types.InputError, match=match) as error:
    builder.download_and_prepare()
  assert "\n" not in str(error.value)
  assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


@pytest.mark.parametrize("place", ["manual", "manual/mnist_c", "zip"])
def test_images_are_read_exactly(place, tmp_path, manual):
  contents = tree(identity=4, fog=3, motion_blur=2)
  if place == "zip":
    write_zip(manual, {f"mnist_c/{n}": d for n, d in contents.items()})
  else:
    write(tmp_path / place, contents)
  data = load(tmp_path, manual)
  columns = data.images.columns
  assert set(columns["split"]) == {"test"}
  for seed, (name, count) in enumerate(
    {"identity": 4, "fog": 3, "motion_blur": 2}.items()
  ):
    of_one_N = columns["corruption"] == name
    np.testing.assert_array_equal(
      data.images.image_NHWC[of_one_N], images(count, seed)
    )
    np.testing.assert_array_equal(
      data.images.label_N[of_one_N], np.arange(count)
    )
  assert data.skipped == []
  assert "Mu and Justin Gilmer" in data.terms


def test_clean_images_are_canonical_and_corruptions_are_groups(
  tmp_path, manual
):
  write(manual, tree(identity=2, fog=1, shear=1))
  data = load(tmp_path, manual)
  assert tuple(data.roles.groups) == mnist_c.CORRUPTIONS[1:]
  chosen = roles.choose(data.roles, ["shear", "fog"])
  role_N = roles.assign(chosen, data.images.columns, 4)
  # In the benchmark's order, shear comes before fog.
  assert role_N.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
  ("name", "data", "message"),
  [
    ("images", npy(images())[:-1], "test_images.npy cannot be read as an arr"),
    ("images", npy(images())[:9], "cannot be read as an array"),
    ("images", b"", "cannot be read as an array"),
    ("images", npy(np.array([{}])), "cannot be read .*allow_pickle=False"),
    ("images", npy(images()[..., 0]), r"\[N, 28, 28, 1\].*got uint8 of \(3, "),
    ("images", npy(images() / 255), "must have uint8 .*got float64"),
    ("images", npy(images(0)), "N from 1 to 10,000"),
    ("images", npy(np.uint8(3)), "N from 1 to 10,000"),
    ("labels", npy(np.arange(2)), "test_labels.npy must have 3 whole numbers"),
    ("labels", npy(np.arange(3) + 8), "3 whole numbers from 0 to 9"),
    ("labels", npy(np.arange(3.0)), "got float64 of shape"),
  ],
  ids=range(11),
)
def test_damaged_files_are_refused(name, data, message, tmp_path, manual):
  write(manual, tree(fog=3) | {f"fog/test_{name}.npy": data})
  refused(tmp_path, message)


def test_more_images_than_the_benchmark_has_are_refused(
  tmp_path, manual, monkeypatch
):
  monkeypatch.setattr(mnist_c, "_MOST", 2)
  write(manual, tree(fog=3))
  refused(tmp_path, "N from 1 to 2")


def test_files_that_are_missing_are_named(tmp_path, manual):
  contents = tree(fog=3)
  del contents["fog/test_labels.npy"]
  write(manual, contents)
  refused(tmp_path, "Missing: .*test_labels.npy. Put here mnist_c.zip, or its")


@pytest.mark.parametrize("folder_exists", [False, True])
def test_a_folder_without_corruptions(folder_exists, tmp_path, manual):
  if folder_exists:
    write(manual, tree(blur=1))
  refused(tmp_path, "No folder of a corruption in .*Put here mnist_c.zip")


def test_a_damaged_zip_is_refused(tmp_path, manual):
  write_zip(manual, tree(fog=1))
  path = manual / "mnist_c.zip"
  whole, pixels = path.read_bytes(), images(1).tobytes()
  path.write_bytes(whole.replace(pixels, bytes(len(pixels))))
  refused(tmp_path, "test_images.npy cannot be read as an array .Bad CRC-32")
  path.write_bytes(whole[:-30])
  refused(tmp_path, "cannot be opened")


def test_other_files_than_prepared_ones_are_noticed(tmp_path, manual):
  write(manual, tree(identity=2))
  load(tmp_path, manual)
  other = tmp_path / "other"
  write(other, tree(identity=2, fog=1))
  with pytest.raises(types.InputError, match="was prepared from .*manual"):
    load(tmp_path, other)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/mnist_c")
def test_real_files(tmp_path):
  # Preparing all takes seconds: two folders show that the layout is the real.
  manual = tmp_path / "manual"
  manual.mkdir()
  for name in ("identity", "canny_edges"):
    (manual / name).symlink_to(SHARED / name)
  builder = mnist_c.MnistC(manual_dir=manual, data_dir=tmp_path / "data")
  builder.download_and_prepare()
  source = builder.as_data_source(
    split="test", decoders={"image": tfds.decode.SkipDecoding()}
  )
  assert len(source) == 4000
  assert source[3999]["corruption"] == b"canny_edges"
