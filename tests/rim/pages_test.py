"""The page of a sweep of experiments with RIMs."""

import csv

from icm_jax.rim import sweep
from icm_jax.training import atomic_files, run_folder
from icm_jax.viz import sweep as sweep_lib


def test_a_sweep_compares_models_on_every_test(tmp_path):
  def finish(variant, seed, tests, error):
    folder = tmp_path / variant / f"seed_{seed}"
    folder.mkdir(parents=True)
    result = {
      "config": {},
      "seed": seed,
      "task": "copying",
      "measure": "cross entropy, nats",
      "higher_is_better": False,
      "steps": 4,
      "variants": tests,
      "table": {
        model: {test: error * (i + j) for i, test in enumerate(tests)}
        for j, model in enumerate(["rim", "lstm"])
      },
      "time": {"train_s": 1.0, "total_s": 2.0},
      "versions": {"commit": "abc1234"},
    }
    atomic_files.write_json(folder / run_folder.RESULT, result)
    return sweep_lib.SweepRun(variant, seed, folder)

  done = [
    finish("a", 0, ["2 blanks", "4 blanks"], 0.25),
    finish("a", 1, ["2 blanks", "4 blanks"], 0.5),
    finish("b", 0, ["2 blanks"], 1.0),
  ]
  missing = sweep_lib.SweepRun("b", 1, tmp_path / "b" / "seed_1")
  page = sweep_lib.write(tmp_path, [*done, missing], sweep.LAYOUT).read_text()
  assert "Cross entropy, nats; lower is better" in page
  assert "0.7500 (0.5000 to 1.0000)" in page  # LSTMs on 4 blanks.
  assert "Without a result: b, seed 1" in page
  with (tmp_path / sweep_lib.RESULTS).open() as file:
    lines = list(csv.DictReader(file))
  assert [line["lstm/4 blanks"] for line in lines] == ["0.5", "1.0", ""]
  assert [line["rim/2 blanks"] for line in lines] == ["0.0", "0.0", "0.0"]


def test_a_sweep_without_results_has_a_page(tmp_path):
  missing = sweep_lib.SweepRun("a", 0, tmp_path / "a" / "seed_0")
  page = sweep_lib.write(tmp_path, [missing], sweep.LAYOUT).read_text()
  assert "Without a result: a, seed 0" in page
