"""Benchmarks of accelerators, on a machine that has none."""

import functools
import json

import jax
import pytest

from benchmarks import accelerator, cases, measured, parts
from benchmarks.cases import Case
from experiments.configs import mnist
from icm_jax.competition import expert_axis
from icm_jax.data import problem
from icm_jax.training import build, image_run, networks

PLATFORMS = ("cuda", "tpu")
TINY = (3, 6, (8, 8, 1))


def assert_runs_anywhere(lowered):
  text = lowered.as_text()
  assert "stablehlo" in text
  assert "Icm" not in text, "a program for accelerators calls code for CPUs"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", expert_axis.FORMS)
def test_every_form_is_lowered_for_gpus_and_tpus(form, dtype):
  assert_runs_anywhere(cases.lower(Case(*TINY, dtype, form), PLATFORMS))


@pytest.mark.parametrize("more", [{"updates": 3}, {"seeds": 2}], ids=str)
@pytest.mark.parametrize("form", ["unroll_blocks", "vmap_masked"])
def test_several_updates_and_seeds_are_lowered(form, more):
  case = Case(*TINY, "float32", form, **more)
  assert_runs_anywhere(cases.lower(case, PLATFORMS))


def test_parts_are_lowered():
  case = Case(*TINY, "float32", "vmap_masked")
  setup = measured.make_setup(case.image, form=case.form)
  _, shapes = cases.make_program(case)
  for function, args in parts.make_parts(setup, *shapes).values():
    traced = jax.jit(function).trace(*args)
    assert_runs_anywhere(traced.lower(lowering_platforms=PLATFORMS))


@pytest.mark.usefixtures("drawn_data")
@pytest.mark.parametrize("updates", [1, 2])
def test_updates_of_a_run_are_lowered(updates):
  config = mnist.get_config("smoke")
  config.experts.map = "vmap"
  run = build.build(config)
  state, _ = networks.abstract_state(config, run.setup, None)
  raw = problem.draw_raw(run.problem, seed=0, step=0, batch_size=4)
  step = jax.jit(functools.partial(image_run.raw_steps, run=run))
  traced = step.trace(state, [raw] * updates)
  assert_runs_anywhere(traced.lower(lowering_platforms=PLATFORMS))


@pytest.fixture
def rows(tmp_path):
  return accelerator.Rows(str(tmp_path / "rows.jsonl"), started=0.0)


def test_the_plan_has_all_forms_and_sizes(rows):
  tasks = accelerator.plan(rows, tuple(expert_axis.FORMS), smallest=False)
  planned = {case for task in tasks for case in task.cases}
  for dtype in ("float32", "bfloat16"):
    small = {case for case in planned if case.image == (32, 32, 1)}
    small = {case for case in small if case.dtype == dtype}
    assert {case.form for case in small} == {
      *expert_axis.FORMS,
      accelerator.BEST,
    }
    assert {case.batch for case in small} >= {32, 64, 128, 256, 512, 1024}
    assert {case.experts for case in small} == {10, 32}
    assert {case.updates for case in small} == {1, 50}
    assert {case.seeds for case in small} == {1, 16}
  assert {case.image for case in planned} >= {(64, 64, 3), (128, 128, 3)}


def test_the_best_form_is_that_of_the_most_similar_size(rows):
  for batch, form, ms in [(32, "vmap", 2), (32, "unroll", 3), (1024, "a", 9)]:
    case = Case(10, batch, (32, 32, 1), "float32", form)
    rows.add("step", **case._asdict(), ms=ms)
  case = Case(32, 128, (32, 32, 1), "float32", accelerator.BEST)
  assert accelerator.best_form(rows, case) == "vmap"
  case = case._replace(image=(64, 64, 3))
  assert accelerator.best_form(rows, case) == "a"
  assert accelerator.best_form(rows, case._replace(dtype="x")) == "auto"


def test_rows_are_written_as_they_come_and_named_if_they_fail(
  rows, monkeypatch, tmp_path
):
  monkeypatch.setattr(accelerator, "remaining_s", lambda: 1.0)

  def fail():
    raise RuntimeError("out of memory")

  case = Case(*TINY, "float32", "vmap")
  tasks = [
    accelerator.Task("first", run=lambda: {"kind": "device", "rate": 1 / 3}),
    accelerator.Task("second", run=fail),
    accelerator.Task("third", run=fail, guess_s=2.0),
    accelerator.Task("fourth", (case,)),
  ]
  left = []
  accelerator.run_plan(rows, tasks, {}, {}, left)
  assert left == []
  lines = (tmp_path / "rows.jsonl").read_text().splitlines()
  written = [json.loads(line) for line in lines]
  assert [row["kind"] for row in written] == [
    "device",
    "failed",
    "left out",
    "left out",
  ]
  assert written[0]["rate"] == 0.3333
  assert "out of memory" in written[1]["error"]
  assert written[3]["cases"] == [
    [*TINY[:2], [8, 8, 1], "float32", "vmap", 1, 1]
  ]
