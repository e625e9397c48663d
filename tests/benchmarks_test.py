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


def planned(forms, *, smallest=False):
  """Returns the cases and the names of a plan, in order."""
  chosen = []
  tasks = [*accelerator.plan(chosen.append, forms, smallest=smallest)]
  for task in tasks:
    if task.name.startswith("update "):
      task.run()
  return chosen, [task.name for task in tasks]


def test_the_plan_has_all_sizes():
  chosen, names = planned(("vmap", "unroll"))
  assert len(names) == len(set(names)), "a row is named by its name"
  for dtype in ("float32", "bfloat16"):
    small = [case for case in chosen if case.image == (32, 32, 1)]
    small = [case for case in small if case.dtype == dtype]
    assert {case.batch for case in small} >= {32, 64, 128, 256, 512, 1024}
    assert {case.experts for case in small} == {10, 32}
    assert {case.updates for case in small} == {1, 50}
    assert {case.seeds for case in small} == {1, 16}
  assert {case.image for case in chosen} >= {(64, 64, 3), (128, 128, 3)}
  kinds = {name.split()[0] for name in names}
  assert kinds == {"update", "parts", "kernels", "result", "pipeline"}
  assert kinds == {
    name.split()[0] for name in planned(("vmap",), smallest=True)[1]
  }


def test_forms_are_compared_first_and_in_two_sizes():
  chosen, _ = planned(("vmap", "unroll"))
  assert [(case.batch, case.form) for case in chosen[:4]] == [
    (32, "vmap"),
    (32, "unroll"),
    (1024, "vmap"),
    (1024, "unroll"),
  ]
  assert {case.form for case in chosen[4:]} == {"auto"}


def test_rows_are_written_as_they_come_and_named_if_they_fail(rows, tmp_path):
  left = []

  def measure():
    assert left == ["first", "second"], "a row in work is left out so far"
    return {"kind": "device", "rate": 1 / 3}

  def fail():
    raise RuntimeError("out of memory")

  tasks = [accelerator.Task("first", measure), accelerator.Task("second", fail)]
  accelerator.run_plan(rows, tasks, left)
  assert left == []
  lines = (tmp_path / "rows.jsonl").read_text().splitlines()
  written = [json.loads(line) for line in lines]
  assert [row["kind"] for row in written] == ["device", "failed"]
  assert written[0]["rate"] == 0.3333
  assert "out of memory" in written[1]["error"]
