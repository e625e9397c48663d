"""Pictures that are restored from files, by the library and by the program."""

import csv
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

import icm_jax
from experiments import restore
from icm_jax import types
from icm_jax.data import pictures
from icm_jax.learned import picture_files

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = pictures.View(size=32, channels=1, content=28)


@pytest.fixture(scope="module")
def learned(trained):
  """The run, as if it had been one of the data set of digits."""
  return icm_jax.load(trained)


@pytest.fixture
def folder(tmp_path):
  """Five pictures of several formats and sizes, and one that is none."""
  rng = np.random.default_rng(0)
  folder = tmp_path / "in"
  (folder / "deep").mkdir(parents=True)
  for name, shape in {
    "a.png": (28, 28),
    "b.jpg": (60, 40, 3),
    "b.png": (28, 28),
    "deep/a.bmp": (32, 32, 3),
    "deep/ü.gif": (30, 20),
  }.items():
    array = rng.integers(0, 256, shape, dtype=np.uint8)
    PIL.Image.fromarray(array).save(folder / name)
  (folder / "deep" / "c.png").write_bytes(b"no picture")
  (folder / "notes.txt").write_text("not looked at")
  return folder


def start(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "experiments.restore", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_names_are_kept(folder):
  planned = picture_files.plan([folder], written=())
  assert {one.name: one.written for one in planned} == {
    "a.png": "a.png",
    "b.jpg": "b.jpg.png",
    "b.png": "b.png.png",
    "deep/a.bmp": "deep/a.png",
    "deep/c.png": "deep/c.png",
    "deep/ü.gif": "deep/ü.png",
  }
  (one,) = picture_files.plan([folder / "deep" / "a.bmp"], written=())
  assert (one.name, one.written) == ("a.bmp", "a.png")


def test_what_was_written_is_not_read_again(folder):
  planned = picture_files.plan([folder], written=[folder / "deep"])
  assert {one.name for one in planned} == {"a.png", "b.jpg", "b.png"}


@pytest.mark.parametrize(
  ("paths", "message"),
  [
    (["nowhere"], "no file or folder .*nowhere"),
    (["empty"], "holds no picture"),
    (
      ["in/a.png", "in/deep/a.bmp", "in/a.png"],
      r"2 pictures .* as a\.png\.png",
    ),
  ],
)
def test_pictures_that_cannot_be_planned_are_refused(folder, paths, message):
  root = folder.parent
  (root / "empty").mkdir()
  with pytest.raises(types.InputError, match=message):
    picture_files.plan([root / path for path in paths], written=())


def test_pictures_are_read_as_those_of_the_run(learned):
  assert picture_files.view_of(learned) == DIGITS


@pytest.mark.parametrize("chain", [False, True])
def test_files_are_restored_as_arrays_are(folder, learned, tmp_path, chain):
  planned = picture_files.plan([folder], written=())
  seen = []
  done = list(
    picture_files.restore(
      learned,
      planned,
      tmp_path / "out",
      margin=-np.inf,
      chain=chain,
      progress=lambda *numbers: seen.append(numbers),
    )
  )
  assert [one.planned for one in done] == planned
  assert seen == [(6, 6)]
  skipped = {one.planned.name: one.skipped for one in done if one.skipped}
  assert skipped == {"deep/c.png": "not a picture"}
  read = [one for one in done if not one.skipped]
  x_NHWC = np.stack(
    [pictures.read(one.planned.path.read_bytes(), DIGITS) for one in read]
  )
  use = learned.chain if chain else learned.restore
  restored_NHWC, _, score_N, _ = use(x_NHWC, margin=-np.inf)
  for n, one in enumerate(read):
    assert one.experts
    assert one.score == pytest.approx(score_N[n], abs=1e-4)
    np.testing.assert_array_equal(one.before_HWC, x_NHWC[n])
    with PIL.Image.open(tmp_path / "out" / one.planned.written) as image:
      assert image.mode == "L"
      y_HW1 = np.asarray(image)[..., None]
    np.testing.assert_array_equal(y_HW1, one.after_HWC)
    np.testing.assert_allclose(y_HW1 / 255, restored_NHWC[n], atol=0.6 / 255)


def test_the_program_writes_pictures_a_table_and_a_sheet(
  folder, trained, tmp_path
):
  out = tmp_path / "out"
  flags = (f"--workdir={trained}", f"--images={folder}", f"--out={out}")
  done = start(*flags)
  assert done.returncode == 0, done.stderr
  assert not done.stdout
  assert "0.25 logits, as the run measured it" in done.stderr
  assert "1 skipped (1 not a picture)" in done.stderr
  assert {path.name for path in out.iterdir()} == {
    "pictures", "table.csv", "sheet.png",
  }  # fmt: skip
  written = {p.relative_to(out).as_posix() for p in out.rglob("*/*.png")}
  lines = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
  assert [line["file"] for line in lines] == [
    "a.png", "b.jpg", "b.png", "deep/a.bmp", "deep/c.png", "deep/ü.gif",
  ]  # fmt: skip
  mechanism_of = icm_jax.load(trained).mechanism_of
  for line in lines:
    if line["outcome"] == "skipped":
      assert line["reason"] == "not a picture"
      continue
    changed = float(line["change"]) > 0.25
    assert line["outcome"] == ("changed" if changed else "left alone")
    if changed:
      names = mechanism_of[int(line["winner"])]
      assert line["mechanism"] == (names or "unknown")
  assert written == {line["restored"] for line in lines if line["restored"]}

  before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
  again = start(*flags)
  assert again.returncode == 2
  assert "and 6 more files would be overwritten" in again.stderr
  again = start(*flags, "--overwrite", "--margin=nan")
  assert again.returncode == 2
  assert "--margin must be a number" in again.stderr
  assert before == {path: path.stat().st_mtime_ns for path in before}
  again = start(*flags, "--overwrite", "--margin=-inf", "--steps=2")
  assert again.returncode == 0, again.stderr
  assert "step 2; experts must gain -inf logits" in again.stderr
  assert "5 pictures changed" in again.stderr


def test_originals_are_never_overwritten(folder, trained):
  inside = folder / restore.PICTURES
  inside.mkdir()
  (folder / "a.png").rename(inside / "a.png")
  done = start(
    f"--workdir={trained}", f"--images={inside / 'a.png'}", f"--out={folder}",
    "--overwrite",
  )  # fmt: skip
  assert done.returncode == 2
  assert "is one of the pictures to restore" in done.stderr


def test_a_folder_of_damaged_pictures_is_a_failure(folder, trained, tmp_path):
  out = tmp_path / "out"
  done = start(
    f"--workdir={trained}", f"--images={folder / 'deep' / 'c.png'}",
    f"--out={out}",
  )  # fmt: skip
  assert done.returncode == 1
  assert "No picture could be read" in done.stderr
  assert "not a picture" in (out / "table.csv").read_text()


def test_a_table_names_experts_in_their_order():
  one = picture_files.Planned(pathlib.Path("x,y.png"), "x,y.png", "x,y.png")
  array = np.zeros((4, 4, 3), np.uint8)
  done = [picture_files.Done(one, "", (2, 0), 1.5, 0.5, array, array)] * 20
  (line, *_) = csv.DictReader(
    restore.table(done, ("a", "b", "")).decode().splitlines()
  )
  assert line["file"] == "x,y.png"
  assert (line["winner"], line["mechanism"]) == ("2 > 0", "unknown > a")
  kept = restore.gather(done)
  assert sum(one.before_HWC is not None for one in kept) == 8
  assert restore.sheet(kept, ("a", "b", "c")).startswith(b"\x89PNG")


def test_paths_may_hold_commas(tmp_path):
  odd = tmp_path / "a,b"
  odd.mkdir()
  assert restore.paths_of([str(odd)]) == [odd]
  assert restore.paths_of(["a, b", "c"]) == [
    pathlib.Path(name) for name in "abc"
  ]
