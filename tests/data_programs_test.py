"""The programs about data, their page, and the display of preparing."""

import io
import itertools
import pathlib
import re
import subprocess
import sys
import types as types_lib

import numpy as np
import PIL.Image
import pytest

from experiments import console, data, data_check
from icm_jax import types
from icm_jax.data import sources
from icm_jax.viz import contact_sheet

ROOT = pathlib.Path(__file__).parent.parent


def start(*arguments):
  return subprocess.run(
    [sys.executable, "-m", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture
def folders(tmp_path):
  """12 dark pictures, and 5 + 6 brighter ones in two sub-folders.

  One more in `red` is damaged.
  """
  rng = np.random.default_rng(0)
  for folder, count, least in (
    ("A", 12, 0),
    ("B/red", 5, 90),
    ("B/up", 6, 180),
  ):
    (tmp_path / folder).mkdir(parents=True)
    for number in range(count):
      image_HWC = rng.integers(least, least + 60, (20, 30, 3), np.uint8)
      PIL.Image.fromarray(image_HWC).save(tmp_path / folder / f"{number}.png")
  (tmp_path / "B" / "red" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
  return f"folders:{tmp_path / 'A'},{tmp_path / 'B'}"


@pytest.fixture
def prepare(folders, tmp_path):
  """A function that prepares those folders."""

  def prepare(**options):
    return data.prepare(
      folders, image_size=16, data_dir=str(tmp_path / "data"), **options
    )

  return prepare


def cells(tables, title):
  """First and second cell of every line of a table."""
  (table,) = (table for table in tables if table.title == title)
  return {line[0]: line[1] for line in table.lines}


def test_the_program_counts_and_shows(folders, tmp_path):
  done = start(
      "experiments.data", f"--name={folders}", f"--out={tmp_path / 'out'}",
      f"--data_dir={tmp_path / 'data'}", "--image_size=16",
      "--groups=red,up",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "23 images of 16x16x3, 1 skipped" in done.stdout
  for line in ("canonical +12 +12 ", "red +5 +5 ", "up +6 +6 "):
    assert re.search(rf"\n  {line}", done.stdout)
  assert re.search(r"not a picture +1 +red/cut\.png", done.stdout)
  assert "decoding 24/24" in done.stderr
  (page,) = (tmp_path / "out").iterdir()
  assert f"open {page}" in done.stderr


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
  done = start(
      "experiments.data", "--name=mnist", f"--manual_dir={tmp_path}",
      f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path / 'out'}",
  )  # fmt: skip
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: ")
  assert line.endswith("or allow the download with --download.")
  assert done.stdout == ""
  assert not (tmp_path / "out").exists()


def test_examples_of_several_groups_have_no_role(prepare):
  prepared = prepare(groups=("red", "side=transformed"))
  tables = data.tables(prepared, seed=0)
  assert cells(tables, "Roles") == {
    "canonical": "12",
    "red": "0",
    "side=transformed": "6",
    "unused": "5",
  }
  assert (
    "no image for some part" in cells(tables, "Parts of the problem")["none"]
  )


def test_parts_are_those_that_training_uses(prepare):
  tables = data.tables(prepare(), seed=0)
  assert cells(tables, "Roles") == {
    "canonical": "12",
    "red": "5",
    "up": "6",
    "unused": "0",
  }
  parts = cells(tables, "Parts of the problem")
  assert sum(int(parts[p]) for p in ("canonical", "transformed", "test")) == 23
  assert cells(tables, "Splits") == {"all": "23"}
  assert cells(tables, "Columns")["folder"] == "3"


def test_known_groups_are_counted_on_their_own(prepare):
  prepared = prepare()
  # As of a data set whose groups are used on request only.
  prepared = prepared._replace(chosen=False)
  tables = data.tables(prepared, seed=0)
  assert cells(tables, "Roles, each on its own") == {
    "canonical": "12",
    "red": "5",
    "up": "6",
  }
  parts = cells(tables, "Parts of the problem, for image mechanisms")
  assert sum(map(int, parts.values())) == 12


def test_names_of_many_letters_are_drawn():
  image_BHWC = np.zeros((1, 8, 8, 1), np.uint8)
  drawn = [
    contact_sheet.draw([contact_sheet.Row(name, "", image_BHWC)])
    for name in (
      "\u00fc",
      "\u03bc",
      "\u0436",
      "\u4e2d",
      "\U0001f9e0",
      "\U0001f9e1",
      "line\nbreak",
    )
  ]
  assert len(set(drawn)) == 7  # What a font lacks is the same box for all.


def test_a_rule_about_an_unknown_column_is_refused(prepare):
  prepared = prepare(groups=("colour=1",))
  with pytest.raises(types.InputError, match="'colour=1' names an unknown"):
    data.tables(prepared, seed=0)


def test_the_page_is_self_contained(prepare, tmp_path):
  prepared = prepare(groups=("red", "up"))
  skipped = [(f"<{number}>.png", "bad") for number in range(5)]
  prepared = prepared._replace(data=prepared.data._replace(skipped=skipped))
  tables = data.tables(prepared, seed=0)
  path = data.write_page(prepared, tables, tmp_path / "new" / "out")
  assert re.fullmatch(r"[\w.-]+\.html", path.name)
  text = path.read_text()
  resources = re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)", text)
  assert [r[0][:21] for r in resources] == ["data:image/png;base64"]
  assert "<td>canonical</td><td>12</td>" in text
  assert "&lt;0&gt;.png, &lt;1&gt;.png, &lt;2&gt;.png, ..." in text
  assert "&lt;4&gt;.png" in text
  assert path.read_bytes() == (
    data.write_page(prepared, tables, path.parent).read_bytes()
  )


def test_a_page_that_cannot_be_written_is_bad_input(prepare, tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(types.InputError, match="--out=DIR"):
    data.write_page(prepare(), (), tmp_path / "file")


def test_rows_of_a_sheet_hold_their_groups_pictures(prepare):
  rows = data.sheet_rows(prepare(groups=("red", "up")))
  assert [(row.name, row.note) for row in rows] == [
    ("canonical", "12 images"),
    ("red", "5 images"),
    ("up", "6 images"),
  ]
  assert [len(row.image_BHWC) for row in rows] == [12, 5, 6]
  for row, least in zip(rows, (0, 90, 180), strict=True):
    assert (
      least - 20 < row.image_BHWC.min() <= row.image_BHWC.max() < least + 80
    )


def test_without_groups_rows_are_categories(drawn):
  prepared = data.Prepared(drawn, chosen=False, seconds=0.0)
  rows = data.sheet_rows(prepared)
  assert [row.name for row in rows] == ["label 0", "label 1", "label 2"]
  assert {row.image_BHWC.shape for row in rows} == {(16, 32, 32, 1)}
  images = drawn.images._replace(
    columns={"split": drawn.images.columns["split"]}
  )
  prepared = prepared._replace(data=drawn._replace(images=images))
  names = [(row.name, row.note) for row in data.sheet_rows(prepared)]
  assert names == [("split test", "40 images"), ("split train", "120 images")]


def test_embedded_digits(tmp_path):
  prepared = data.prepare("mnist_5k", data_dir=str(tmp_path))
  assert data.headline(prepared.data) == "5,000 images of 32x32x1"
  tables = data.tables(prepared, seed=0)
  assert cells(tables, "Splits") == {"train": "4,000", "test": "1,000"}
  records, arrays = data.num_bytes(prepared.data.images)
  assert records > 1_000_000
  assert arrays > 5_000 * 32 * 32
  assert "0:\N{NO-BREAK SPACE}500" in "\n".join(map(data.layout, tables))
  assert data_check.line(prepared)[:3] == ("mnist_5k", "5,000", "0/0")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_every_pixel(channels):
  rng = np.random.default_rng(0)
  image_BHWC = rng.integers(0, 256, (3, 14, 14, channels), np.uint8)
  rows = [
    contact_sheet.Row("none of these", "0 images", image_BHWC[:0]),
    contact_sheet.Row("all", "3 images", image_BHWC),
  ]
  sheet = np.array(PIL.Image.open(io.BytesIO(contact_sheet.draw(rows))))
  sheet = sheet.reshape(*sheet.shape[:2], channels)
  assert sheet.shape[0] == 2 * 56 + 2
  left = sheet.shape[1] - 3 * 56 - 2 * 2
  for index, image_HWC in enumerate(image_BHWC):
    start = left + index * 58
    shown = sheet[58:, start : start + 56]
    np.testing.assert_array_equal(shown[::4, ::4], image_HWC)
    np.testing.assert_array_equal(shown[3::4, 3::4], image_HWC)
  assert (sheet[:56, left:] == 255).all()
  for top in (0, 58):  # Every row has a name, which ends before the pictures.
    assert (sheet[top : top + 56, : left - 5] < 128).any()
    assert (sheet[top : top + 56, left - 5 : left] == 255).all()


def test_long_names_and_large_pictures_fit():
  image_BHWC = np.full((1, 300, 300, 3), 200, np.uint8)
  row = contact_sheet.Row("wide " * 100, "", image_BHWC)
  sheet = PIL.Image.open(io.BytesIO(contact_sheet.draw([row])))
  assert sheet.height == 96
  assert sheet.width < 5 * 96


def test_tables_as_text():
  table = contact_sheet.Table(
    "Fruit", ("name", "count"), [("apple", "12"), ("fig", "7")]
  )
  assert data.layout(table).splitlines() == [
    "Fruit",
    "  name   count",
    "  apple     12",
    "  fig        7",
  ]
  long = table._replace(lines=[("fig", "word " * 30)], words=True)
  lines = data.layout(long).splitlines()
  assert len(lines) > 3
  assert max(map(len, lines)) <= 80
  assert data.layout(table._replace(lines=())) == ""


def test_sample_folders_are_found_by_either_name(tmp_path):
  for name in ("celeba", "lfw", "something"):
    (tmp_path / name).mkdir()
  (tmp_path / "README.md").touch()
  assert data_check.found(tmp_path) == {
    "celeb_a": tmp_path / "celeba",
    "lfw": tmp_path / "lfw",
  }
  assert set(data_check.FOLDERS.values()) <= set(sources.SOURCES)
  assert set(data_check.EMBEDDED) <= set(sources.SOURCES)
  with pytest.raises(types.InputError, match="no folder --samples="):
    data_check.found(tmp_path / "nowhere")


def test_the_check_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
  (tmp_path / "samples" / "mnist").mkdir(parents=True)
  out = tmp_path / "out"
  given = types_lib.SimpleNamespace(samples=str(tmp_path / "samples"), out=out)
  monkeypatch.setattr(data_check.flags, "FLAGS", given)
  monkeypatch.setattr(data_check, "EMBEDDED", ("fashion_mnist", "orl_faces"))
  with pytest.raises(types.InputError, match=r"fashion_mnist: .*; mnist: "):
    data_check.main()
  title, _, line = capsys.readouterr().out.splitlines()
  assert title.startswith("Data sets below")
  assert re.match(r"  orl_faces +400 +0/0 +\d+\.\d +\d\.\d MB  none", line)
  assert [path.name for path in out.iterdir()] == ["orl_faces.html"]


def test_plain_lines_about_preparing_are_few(monkeypatch, capsys):
  clock = itertools.count()  # Every look at the clock takes a second.
  monkeypatch.setattr(console.time, "perf_counter", lambda: next(clock))
  plain = console.Plain()
  for done in range(0, 10_000, 1000):
    plain.prepare("reading", done, 0)
  for done in range(3):
    plain.prepare("decoding", done, 2)
  texts = [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()]
  assert texts[-1] == "decoding 2/2"
  assert all(re.fullmatch(r"reading \d,000", text) for text in texts[:-1])
  assert 1 <= len(texts[:-1]) <= 2


def test_the_bar_changes_with_its_task(capsys):
  bar = console.Bar()
  bar.prepare("reading", 500, 0)
  bar.prepare("reading", 900, 0)
  bar.prepare("decoding", 512, 1024)
  bar.prepare("decoding", 1024, 1024)
  text = capsys.readouterr().err
  assert "reading: 900image" in text
  assert "decoding: 100%" in text
  assert "1024/1024" in text
