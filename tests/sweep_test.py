"""Sweeps: planning, running, skipping and gathering runs."""

import contextlib
import csv
import json
import math
import os
import re
import signal
import subprocess
import sys

import pytest

from experiments import paper, runs
from icm_jax import types
from icm_jax.training import atomic_files, build, run_folder, train_loop
from icm_jax.viz import sweep as page_lib

# ml_collections loads config files by a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")

CONFIG = "experiments/configs/mnist.py:smoke"


def plan(root, overrides=("",), seeds=(0,), shared=()):
  return runs.plan(root, CONFIG, shared, overrides, seeds)


@pytest.mark.parametrize(
  ("text", "seeds"),
  [
    ("4", [4]),
    ("0-3", [0, 1, 2, 3]),
    ("0,3,5", [0, 3, 5]),
    ("7,0-1", [7, 0, 1]),
  ],
)
def test_seeds_are_read(text, seeds):
  assert runs.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1;2"])
def test_bad_seeds_are_refused(text):
  with pytest.raises(types.InputError, match="--seeds"):
    runs.parse_seeds(text)


def test_every_variant_has_every_seed_and_a_folder_of_its_own(tmp_path):
  plans = plan(
    tmp_path,
    ["", "experts.count=5  remedies.relocation.every=0"],
    [0, 2],
    ["train.steps=7"],
  )
  made = [planned.run for planned in plans]
  assert [(run.variant, run.seed) for run in made] == [
    ("as it is", 0),
    ("as it is", 2),
    ("experts.count=5 remedies.relocation.every=0", 0),
    ("experts.count=5 remedies.relocation.every=0", 2),
  ]
  assert len({run.workdir for run in made}) == 4
  assert [p.config.experts.count for p in plans] == [3, 3, 5, 5]
  assert [p.config.seed for p in plans] == [0, 2, 0, 2]
  assert {p.config.train.steps for p in plans} == {7}


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (["experts.cuont=5"], "Did you mean"),
    (["train.steps=many"], "is not valid: .*many"),
    (["experts.count"], "must be name=value pairs"),
    (["seed=1", "seed=1"], "is given twice"),
  ],
)
def test_bad_overrides_are_refused_before_anything_runs(
  overrides, message, tmp_path
):
  with pytest.raises(types.InputError, match=message):
    plan(tmp_path, overrides)


def test_a_sweep_skips_resumes_reports_and_gathers(tmp_path, monkeypatch):
  """Runs are replaced by a stand-in, because they have tests of their own."""
  commands = []

  class Process(contextlib.nullcontext):
    def __init__(self, command, stdout, **options):
      del options
      super().__init__(self)
      commands.append(command)
      self.command = command
      if "--config.experts.norm=layer" in command:
        stdout.write("a line\nerror: no such norm\n")

    def wait(self):
      if "--config.experts.norm=layer" in self.command:
        return 2
      (folder,) = [a for a in self.command if a.startswith("--workdir=")]
      finish(by_folder[folder.removeprefix("--workdir=")])
      return 0

  def finish(planned):
    made = planned.run.workdir
    made.mkdir(parents=True, exist_ok=True)
    atomic_files.write_json(made / run_folder.RESULT, result_of(planned))

  monkeypatch.setattr(runs.subprocess, "Popen", Process)
  root = tmp_path / "sweep"
  plans = plan(root, ["", "experts.norm=layer"], [0, 1, 2])
  by_folder = {str(planned.run.workdir): planned for planned in plans}
  finish(plans[0])
  plans[1].run.workdir.mkdir(parents=True)
  # The second run seems to have been interrupted.
  run_folder.write(plans[1].run.workdir, plans[1].config, {})
  said = []
  assert runs.run_all(plans, 2, said.append) == 3
  assert "1 of 6 runs are finished already" in said[0]
  assert sum("no such norm (see" in text for text in said) == 3
  assert len(commands) == 5
  assert all("--resume=auto" in command for command in commands)
  page = page_lib.write(
    root, [planned.run for planned in plans], page_lib.IMAGES
  ).read_text()
  assert "Without a result: experts.norm=layer, seed 0" in page
  assert not re.search(r'(src|href)="(?!data:)', page)
  with (root / page_lib.RESULTS).open() as file:
    lines = list(csv.DictReader(file))
  assert [line["seed"] for line in lines] == ["0", "1", "2"]
  assert [line["steps_until_all"] for line in lines] == ["50", "50", ""]
  assert lines[0]["found/right"] == "50"
  assert lines[0]["commit"] == "abc1234"
  assert [line["row_of_2/beam"] for line in lines] == ["", "", "0.3"]
  # The same command again runs only what failed.
  assert runs.run_all(plans, 2, said.append) == 3
  assert len(commands) == 8
  # A result that a full disk cut short is none, and stops no other run.
  (plans[2].run.workdir / run_folder.RESULT).write_text("")
  page_lib.write(root, [planned.run for planned in plans], page_lib.IMAGES)
  assert (root / page_lib.RESULTS).read_text().count("\n") == 3
  assert runs.run_all(plans, 2, said.append) == 3
  assert len(commands) == 12


def test_a_stopped_sweep_stops_its_runs_and_starts_no_more(
  tmp_path, monkeypatch
):
  started = []
  popen = subprocess.Popen

  def sleeper(command, **options):
    del command
    process = popen(
      [sys.executable, "-c", "import time; time.sleep(60)"], **options
    )
    started.append(process)
    os.kill(os.getpid(), signal.SIGTERM)
    return process

  monkeypatch.setattr(runs.subprocess, "Popen", sleeper)
  with pytest.raises(train_loop.Interrupted, match="same command resumes"):
    runs.run_all(plan(tmp_path / "sweep", seeds=[0, 1, 2]), 1, print)
  assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_a_variant_overrides_shared_values(tmp_path):
  (planned,) = plan(
    tmp_path,
    ["mechanisms.names=up,invert,noise"],
    shared=["mechanisms.names=right,down", "experts.count=2"],
  )
  assert build.make_mechanisms(planned.config)[0] == ("up", "invert", "noise")
  assert planned.config.experts.count == 2


def result_of(planned):
  """A made-up result; with seed 2, one mechanism is not found."""
  found = None if planned.run.seed == 2 else 50
  return {
    "config": json.loads(planned.config.to_json()),
    "seed": planned.run.seed,
    "steps": 100,
    "mechanisms": ["right", "down"],
    "experts": 3,
    "active_experts": 2,
    "wins": [[0, 10], [10, 0], [0, 0]] if found else [[10, 10], [0, 0], [0, 0]],
    "one_to_one": bool(found),
    "coverage": 1.0,
    "matched": 1.0,
    "classifier": {"restored": 0.9, "clean": 1.0, "transformed": 0.2},
    "chains": None
    if found
    else {"by_length": {"2": dict(before=0.1, greedy=0.2, beam=0.3, clean=1)}},
    "found_steps": {"right": found, "down": 0},
    "time": {"train_s": 1.0, "total_s": 2.0},
    "versions": {"commit": "abc1234"},
  }


def test_steps_until_all_are_those_of_the_last_mechanism():
  until = lambda *found: page_lib.steps_until_all(
    {"found_steps": dict(enumerate(found))}
  )
  assert until(0, 100, 50) == 100
  assert math.isinf(until(0, None))


@pytest.mark.parametrize("scale", ["small", "full"])
def test_the_papers_experiments_can_be_planned(scale, tmp_path):
  plans = paper.plan(tmp_path, scale)
  assert len({planned.run.workdir for planned in plans}) == len(plans)
  assert len({planned.run.variant for planned in plans}) >= 12
  seeds = [p.run.seed for p in plans if p.run.variant == "mnist"]
  assert seeds == list(range(10 if scale == "full" else 1))
  assert {p.config.data.name for p in plans} == {
    "mnist" if scale == "full" else "mnist_5k"
  }
  for planned in plans:
    build.make_mechanisms(planned.config)
