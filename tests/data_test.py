"""Data sets by name, roles, and how they become a problem."""

import os
import pathlib
import types as types_lib

import jax
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from icm_jax import mechanisms, types
from icm_jax.data import decoded, problem, roles, sources
from icm_jax.data.builders import base


def picture(path, colour=(255, 0, 0), size=(10, 8)):
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.new("RGB", size, colour).save(path)


def load(name, tmp_path, **kwargs):
  kwargs = {"image_size": 8, "data_dir": str(tmp_path / "data"), **kwargs}
  return sources.load(name, **kwargs)


def table(num_examples=40, seed=0, person=""):
  """Returns a data set of columns; pixels of images are the image's number."""
  generator = np.random.default_rng(seed)
  image_NHWC = np.zeros((num_examples, 4, 4, 1), np.uint8)
  image_NHWC[:, 0, 0, 0] = np.arange(num_examples)
  columns = {
    "split": np.repeat("train", num_examples),
    "condition": generator.choice(["normal", "glasses", "sad"], num_examples),
    "age": generator.integers(0, 90, num_examples).astype(np.int32),
    "hat": generator.random(num_examples) < 0.3,
    "scarf": generator.random(num_examples) < 0.3,
    "who": generator.choice([f"p{i}" for i in range(10)], num_examples),
  }
  images = decoded.Images(image_NHWC, columns)
  return sources.DataSet("table", images, roles.Roles(person=person), (), "")


def test_unknown_data_sets_list_the_known_ones(tmp_path):
  for name in ("nmist", "mnist:x", "tfds:", "folder:", ""):
    with pytest.raises(types.InputError, match="known: mnist_5k, mnist"):
      load(name, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "data").write_text("in the way")
  with pytest.raises(types.InputError, match="cannot be prepared in"):
    load("mnist_5k", tmp_path, image_size=28)


def test_files_are_found_in_the_folders_of_tfds(tmp_path):
  manual = tmp_path / "data" / "downloads" / "manual"
  with pytest.raises(types.InputError, match=f"Missing in {manual}: train-"):
    load("mnist", tmp_path, image_size=28)
  (manual / "mnist").mkdir(parents=True)  # A data set may have its own folder.
  with pytest.raises(types.InputError, match=f"Missing in {manual / 'mnist'}:"):
    load("mnist", tmp_path, image_size=28)


@pytest.mark.parametrize("size", [27, 0, -3])
def test_sizes_smaller_than_the_images_are_refused(size, tmp_path):
  with pytest.raises(types.InputError, match=f"at least 28.*got {size}"):
    load("mnist_5k", tmp_path, image_size=size)


@pytest.mark.parametrize(
  ("view", "message"),
  [({"channels": 2}, "1 channel"), ({"crop": -1}, "crop must be at least 0")],
)
def test_invalid_views_are_refused(view, message, tmp_path):
  picture(tmp_path / "a" / "a.png")
  with pytest.raises(types.InputError, match=message):
    load(f"folder:{tmp_path / 'a'}", tmp_path, view=view)


def test_a_folder_of_the_users_own(tmp_path):
  picture(tmp_path / "own" / "b" / "two.PNG", (0, 255, 0))
  picture(tmp_path / "own" / "one.jpg", (255, 255, 255))
  picture(tmp_path / "own" / ".hidden" / "three.png")
  (tmp_path / "own" / "notes.txt").write_text("no picture")
  (tmp_path / "own" / "z.png").write_bytes(b"no picture either")
  data = load(f"folder:{tmp_path / 'own'}", tmp_path)
  assert data.images.columns["file"].tolist() == ["b/two.PNG", "one.jpg"]
  assert data.images.columns["folder"].tolist() == ["b", ""]
  assert data.images.image_NHWC.shape == (2, 8, 8, 3)
  assert data.images.image_NHWC[0, 4, 4].tolist() == [0, 255, 0]
  assert list(data.skipped) == [("z.png", "not a picture")]
  # Changes in the folder are noticed.
  picture(tmp_path / "own" / "four.png")
  again = load(f"folder:{tmp_path / 'own'}", tmp_path)
  assert len(again.images.image_NHWC) == 3


def test_names_that_are_not_text_can_be_printed(tmp_path):
  (tmp_path / "own").mkdir()
  picture(tmp_path / "own" / "a.png")
  for name in (b"\xff.png", b"\xfe.png"):
    (tmp_path / "own" / os.fsdecode(name)).write_bytes(b"no picture")
  data = load(f"folder:{tmp_path / 'own'}", tmp_path)
  assert sorted(data.skipped) == [("?.png", "not a picture")] * 2


def test_two_folders_are_canonical_and_transformed(tmp_path):
  for name in ("clean/a", "clean/b", "bad/fog/a", "bad/rain/a", "bad/rain/b"):
    picture(tmp_path / f"{name}.png")
  name = f"folders:{tmp_path / 'clean'},{tmp_path / 'bad'}"
  data = load(name, tmp_path)
  assert list(data.roles.groups) == ["fog", "rain"]
  role_N = roles.assign(data.roles, data.images.columns, 5)
  assert sorted(role_N.tolist()) == [0, 0, 1, 2, 2]
  flat = load(f"folders:{tmp_path / 'clean'},{tmp_path / 'bad/fog'}", tmp_path)
  assert list(flat.roles.groups) == ["transformed"]


def test_pictures_beside_groups_are_told(tmp_path):
  for name in ("clean/a", "bad/b", "bad/fog/a", "bad/fog/deeper/b"):
    picture(tmp_path / f"{name}.png")
  name = f"folders:{tmp_path / 'clean'},{tmp_path / 'bad'}"
  data = load(name, tmp_path)
  assert len(data.images.image_NHWC) == 3
  assert data.skipped == [
    ("b.png", "beside the sub-folders, which are the groups")
  ]


@pytest.mark.parametrize("name", ["fog & rain", "fog|rain", "fog "])
def test_a_folder_that_no_rule_can_name_is_refused(name, tmp_path):
  picture(tmp_path / "clean" / "a.png")
  picture(tmp_path / "bad" / name / "a.png")
  with pytest.raises(types.InputError, match="cannot be a group"):
    load(f"folders:{tmp_path / 'clean'},{tmp_path / 'bad'}", tmp_path)


def test_files_are_read_once_they_become_readable(tmp_path, monkeypatch):
  for name in ("a", "b"):
    picture(tmp_path / "own" / f"{name}.png")
  read_bytes = pathlib.Path.read_bytes

  def forbid(path):
    if path.name == "a.png":
      raise PermissionError(13, "Permission denied")
    return read_bytes(path)

  monkeypatch.setattr(pathlib.Path, "read_bytes", forbid)
  (tmp_path / "own" / "a.png").chmod(0o000)
  data = load(f"folder:{tmp_path / 'own'}", tmp_path)
  assert list(data.skipped) == [("a.png", "cannot be read (Permission denied)")]
  monkeypatch.undo()
  (tmp_path / "own" / "a.png").chmod(0o644)
  assert not load(f"folder:{tmp_path / 'own'}", tmp_path).skipped


def test_unusable_folders_have_a_reason(tmp_path, monkeypatch):
  (tmp_path / "empty").mkdir()
  (tmp_path / "phone").mkdir()
  (tmp_path / "phone" / "a.HEIC").touch()
  picture(tmp_path / "two" / "a.png")
  picture(tmp_path / "two" / "b.png")
  for name, message in (
    (f"folder:{tmp_path / 'none'}", "There is no folder"),
    (f"folder:{tmp_path / 'empty'}", r"holds no picture\. Known suffixes: .ap"),
    (f"folder:{tmp_path / 'phone'}", r"1 left out.*a\.HEIC: no picture that"),
    (f"folders:{tmp_path / 'two'}", "needs two folders.*got 1"),
    (f"folders:{tmp_path},{tmp_path / 'two'}", "neither contains the other"),
  ):
    with pytest.raises(types.InputError, match=message):
      load(name, tmp_path)
  with pytest.raises(types.InputError, match="2 pictures, and at most 1"):
    load(f"folder:{tmp_path / 'two'}", tmp_path, max_images=1)

  def forbid(folder):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr("os.scandir", forbid)
  with pytest.raises(types.InputError, match="two cannot be read.*permissions"):
    load(f"folder:{tmp_path / 'two'}", tmp_path)


class Stock(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set as someone else may have prepared it."""

  VERSION = tfds.core.Version("2.0.0")
  name = "stock"

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(None, None, 3)),
          "label": tfds.features.ClassLabel(num_classes=3),
          "attributes": {"hat": np.bool_},
          "landmarks": tfds.features.Tensor(shape=(2,), dtype=np.int32),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i in range(6):
      yield (
        i,
        {
          "image": PIL.Image.new("RGB", (9, 9), (i, 0, 0)),
          "label": i % 3,
          "attributes": {"hat": i == 2},
          "landmarks": [i, i],
        },
      )


def test_a_stock_data_set_is_read(tmp_path, capfd):
  tfds.disable_progress_bar()
  Stock(
    data_dir=tmp_path / "data", file_format="array_record"
  ).download_and_prepare()
  data = load("tfds:stock", tmp_path)
  order = np.argsort(data.images.image_NHWC[:, 4, 4, 0])
  assert data.images.label_N[order].tolist() == [0, 1, 2, 0, 1, 2]
  assert data.images.columns["hat"][order].tolist() == [
    i == 2 for i in range(6)
  ]
  assert "landmarks" not in data.images.columns
  with pytest.raises(types.InputError, match="holds no prepared data set"):
    load("tfds:other", tmp_path)


class Broken(base.ImageBuilder):
  """Yields a picture, then fails as a full disk does."""

  VERSION = tfds.core.Version("1.0.0")
  name = "broken"
  DESCRIPTION = HOMEPAGE = CITATION = TERMS = "none"
  COLUMNS = types_lib.MappingProxyType(
    {"number": np.int32, "file": tfds.features.Text()}
  )
  full = True
  missing = False

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for number in range(3):
      if number == 2 and self.full:
        raise OSError(28, "No space left on device")
      picture = PIL.Image.new("L", (8, 8), number)
      example = {"image": picture, "number": number, "file": f"{number}.png"}
      if self.missing:
        example["image"] = "/there/is/no/such/file.png"
      yield number, example
    self._skip("last", "is left out")


def test_a_full_disk_leaves_nothing_that_is_taken_for_whole(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(sources.SOURCES, "broken", sources.Source(Broken))
  with pytest.raises(types.InputError, match="No space left.*or free space"):
    load("broken", tmp_path)
  monkeypatch.setattr(Broken, "full", False)
  write = decoded._decode_into

  def fill(staged, *args):
    write(staged, *args)
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(decoded, "_decode_into", fill)
  with pytest.raises(types.InputError, match="No space left"):
    load("broken", tmp_path)
  monkeypatch.setattr(decoded, "_decode_into", write)
  data = load("broken", tmp_path)
  assert data.images.columns["number"].tolist() == [0, 1, 2]
  assert list(data.skipped) == [("last", "is left out")]
  left = [p.name for p in (tmp_path / "data").rglob("*") if p.is_dir()]
  assert not [name for name in left if "staged" in name or "incomplete" in name]


def test_a_disk_that_fills_up_is_told(tmp_path, monkeypatch):
  def fill(path, records):
    raise RuntimeError("write() failed: No space left on device")

  adapter = base.file_adapters.ArrayRecordFileAdapter
  monkeypatch.setattr(adapter, "write_examples", fill)
  monkeypatch.setitem(sources.SOURCES, "broken", sources.Source(Broken))
  monkeypatch.setattr(Broken, "full", False)
  with pytest.raises(types.InputError, match="No space left.*or free space"):
    load("broken", tmp_path)


def test_files_that_cannot_be_opened_are_not_taken_for_a_data_set(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(sources.SOURCES, "broken", sources.Source(Broken))
  monkeypatch.setattr(Broken, "full", False)
  monkeypatch.setattr(Broken, "missing", True)
  with pytest.raises(types.InputError, match="No file of the split train"):
    load("broken", tmp_path)
  monkeypatch.setattr(Broken, "missing", False)
  assert len(load("broken", tmp_path).images.image_NHWC) == 3


def test_shards_are_cut_where_they_are_full(tmp_path, monkeypatch):
  monkeypatch.setitem(sources.SOURCES, "broken", sources.Source(Broken))
  monkeypatch.setattr(Broken, "full", False)
  monkeypatch.setattr(base, "SHARD_BYTES", 1)
  data = load("broken", tmp_path)
  assert data.images.columns["number"].tolist() == [0, 1, 2]
  shards = list((tmp_path / "data" / "broken").rglob("*array_record*-of-00003"))
  assert len(shards) == 3


def test_progress_is_reported(tmp_path):
  told = []
  picture(tmp_path / "own" / "a.png")
  load(
    f"folder:{tmp_path / 'own'}", tmp_path, progress=lambda *a: told.append(a)
  )
  assert told == [("decoding", 1, 1)]


@pytest.mark.parametrize(
  ("rule", "expected"),
  [
    ("", lambda c: c["age"] >= 0),
    ("condition=sad", lambda c: c["condition"] == "sad"),
    ("condition=sad|normal", lambda c: c["condition"] != "glasses"),
    ("age=20-39", lambda c: (c["age"] >= 20) & (c["age"] <= 39)),
    ("age=5|60-120", lambda c: (c["age"] == 5) | (c["age"] >= 60)),
    ("hat=1 & scarf=0", lambda c: c["hat"] & ~c["scarf"]),
  ],
)
def test_rules_match_columns(rule, expected):
  columns = table().images.columns
  np.testing.assert_array_equal(
    roles.matches(rule, columns, 40), expected(columns)
  )


@pytest.mark.parametrize(
  ("rule", "message"),
  [
    ("hat", "must look like column=value"),
    ("hat=", "must look like column=value"),
    ("coat=1", "an unknown column; known: split, condition"),
    ("age=old", "'old' is neither a number nor an interval"),
  ],
)
def test_rules_that_cannot_be_read_are_refused(rule, message):
  with pytest.raises(types.InputError, match=message):
    roles.matches(rule, table().images.columns, 40)


def test_one_mechanism_acts_alone():
  columns = table().images.columns
  chosen = roles.Roles("age=10-99", {"hat": "hat=1", "scarf": "scarf=1"})
  role_N = roles.assign(chosen, columns, 40)
  hat, scarf, old = columns["hat"], columns["scarf"], columns["age"] >= 10
  np.testing.assert_array_equal(role_N == 1, hat & ~scarf)
  np.testing.assert_array_equal(role_N == 2, scarf & ~hat)
  np.testing.assert_array_equal(role_N == 0, ~hat & ~scarf & old)
  assert set(role_N[hat & scarf]) == {roles.UNUSED}


def test_groups_are_chosen_by_name_or_rule():
  known = roles.Roles(groups={"hat": "hat=1", "scarf": "scarf=1"})
  assert roles.choose(known, ("scarf", "age=60-90")).groups == {
    "scarf": "scarf=1",
    "age=60-90": "age=60-90",
  }
  assert roles.choose(known, ()).groups == {}
  with pytest.raises(types.InputError, match="'coat'; known: hat, scarf"):
    roles.choose(known, ("coat",))


def test_the_halves_are_disjoint_and_use_all(drawn_problem):
  transformed = set(drawn_problem.transformed_ids.tolist())
  canonical = set(drawn_problem.canonical_ids.tolist())
  assert not transformed & canonical
  assert transformed | canonical == set(range(120))
  assert abs(len(transformed) - len(canonical)) <= 1
  assert drawn_problem.test_ids.tolist() == list(range(120, 160))


def test_halves_depend_on_the_seed_only(drawn):
  make = lambda seed: problem.make_problem(drawn, seed=seed).transformed_ids
  np.testing.assert_array_equal(make(1), make(1))
  assert not np.array_equal(make(1), make(2))


@pytest.mark.parametrize("groups", [(), ("glasses", "sad")])
@pytest.mark.parametrize("seed", range(5))
def test_parts_never_share_a_person(groups, seed):
  data = table(200, person="who")
  rules = {name: f"condition={name}" for name in groups}
  canonical = "condition=normal" if groups else ""
  data = data._replace(roles=roles.Roles(canonical, rules, "who"))
  made = problem.make_problem(data, seed=seed)
  people = [
    set(data.images.columns["who"][ids])
    for ids in (made.transformed_ids, made.canonical_ids, made.test_ids)
  ]
  assert all(people)
  assert not people[0] & people[1]
  assert not people[2] & (people[0] | people[1])
  other = problem.make_problem(data, seed=seed + 1)
  np.testing.assert_array_equal(made.test_ids, other.test_ids)


def test_halves_may_share_people_but_neither_images_nor_the_test():
  data = table(200, person="who")
  made = problem.make_problem(data, seed=0, share_people=True)
  parts = (made.transformed_ids, made.canonical_ids, made.test_ids)
  assert sorted(np.concatenate(parts)) == list(range(200))
  assert abs(len(parts[0]) - len(parts[1])) <= 1
  people = [set(data.images.columns["who"][ids]) for ids in parts]
  assert people[0] & people[1]
  assert not people[2] & (people[0] | people[1])
  apart = problem.make_problem(data, seed=0)
  np.testing.assert_array_equal(made.test_ids, apart.test_ids)


def test_people_of_the_test_split_are_not_trained_on():
  data = table(100, person="who")
  split_N = np.where(np.arange(100) < 10, "test", "train").astype("U10")
  split_N[50:60] = "validation"
  columns = {**data.images.columns, "split": split_N}
  data = data._replace(images=data.images._replace(columns=columns))
  made = problem.make_problem(data, seed=0)
  assert made.test_ids.tolist() == list(range(10))
  seen = set(columns["who"][:10])
  assert not seen & set(columns["who"][made.train_ids])
  assert not set(range(50, 60)) & set(made.train_ids.tolist())


def test_a_part_without_images_is_refused_with_counts():
  rules = roles.Roles("condition=normal", {"none": "condition=none"})
  with pytest.raises(types.InputError, match="0 transformed/none"):
    problem.make_problem(table()._replace(roles=rules), seed=0)


def grouped():
  """Returns a problem whose groups differ in size; few images are sad."""
  data = table(200)
  condition = np.array(data.images.columns["condition"])
  condition[np.flatnonzero(condition == "sad")[8:]] = "normal"
  columns = {**data.images.columns, "condition": condition}
  rules = roles.Roles(
    "condition=normal", {n: f"condition={n}" for n in ("glasses", "sad")}
  )
  data = data._replace(
    images=data.images._replace(columns=columns), roles=rules
  )
  return problem.make_problem(data, seed=0), condition


def test_groups_are_balanced_by_sampling():
  made, condition = grouped()
  seen = []
  for step in range(30):
    raw = problem.draw_raw(made, seed=0, step=step, batch_size=7)
    ids = raw.source_BHWC[:, 0, 0, 0]
    assert set(ids.tolist()) <= set(made.transformed_ids.tolist())
    canonical_ids = raw.canonical_BHWC[:, 0, 0, 0]
    assert set(canonical_ids.tolist()) <= set(made.canonical_ids.tolist())
    seen += condition[ids].tolist()
  assert seen.count("sad") == seen.count("glasses") == 105
  again = problem.draw_raw(made, seed=0, step=29, batch_size=7)
  np.testing.assert_array_equal(raw.source_BHWC, again.source_BHWC)


def test_groups_reach_no_batch():
  made, _ = grouped()
  raw = problem.draw_raw(made, seed=0, step=0, batch_size=6)
  batch = problem.make_batch(jax.random.key(0), 0, raw, ())
  assert batch._fields == types.Batch._fields
  np.testing.assert_allclose(
    batch.transformed_BHWC, raw.source_BHWC / np.float32(255), atol=1e-6
  )


@pytest.mark.parametrize("make", [lambda drawn: grouped()[0], None])
def test_processes_read_their_parts_of_a_batch(make, drawn_problem):
  made = make(drawn_problem) if make else drawn_problem
  draw = lambda process: problem.draw_raw(
    made, seed=0, step=3, batch_size=6, process=process
  )
  whole = draw(problem.ONLY_PROCESS)
  parts = [draw(problem.Process(i, 3)) for i in range(3)]
  for side in range(2):
    np.testing.assert_array_equal(
      np.concatenate([part[side] for part in parts]), whole[side]
    )
  with pytest.raises(types.InputError, match="multiple of the 4 processes"):
    draw(problem.Process(0, 4))


def test_batches_come_in_order_on_the_device(drawn_problem):
  raws = list(
    problem.batches(drawn_problem, seed=0, steps=range(2, 7), batch_size=4)
  )
  assert len(raws) == 5
  for step, raw in enumerate(raws, start=2):
    assert isinstance(raw.source_BHWC, jax.Array)
    expected = problem.draw_raw(drawn_problem, seed=0, step=step, batch_size=4)
    np.testing.assert_array_equal(raw.source_BHWC, expected.source_BHWC)


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
