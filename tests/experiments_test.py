"""The programs, as a user starts them, and the README's words."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = "--config=experiments/configs/mnist.py:smoke"


def start(*arguments):
  return subprocess.run(
    [sys.executable, "-m", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_train_evaluate_and_report(tmp_path):
  folder = tmp_path / "run"
  data = f"--config.data.dir={tmp_path / 'data'}"
  done = start(
      "experiments.train", CONFIG, f"--workdir={folder}", data,
      "--config.mechanisms.names=right,invert", "--config.experts.count=2",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout == ""
  assert "step 3/3" in done.stderr
  assert "Traceback" not in done.stderr
  assert "Warning" not in done.stderr
  made = {path.name for path in folder.iterdir()}
  assert made == {
    "checkpoints",
    "config.json",
    "examples.npz",
    "grid.png",
    "metrics.jsonl",
    "report.html",
    "result.json",
    "tensorboard",
  }
  page = folder / "report.html"
  page.unlink()
  for program in ("experiments.evaluate", "experiments.report"):
    done = start(program, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
  assert page.exists()
  again = start("experiments.train", CONFIG, f"--workdir={folder}", data)
  assert again.returncode == 2
  assert "holds another run" in again.stderr


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([CONFIG, "--config.experts.count=0"], "at least 1, or auto; got 0"),
    ([CONFIG, "--config.experts.cuont=3"], 'Did you mean "count"'),
    (["--config=experiments/configs/mnist.py:fast"], "got 'fast'"),
    (["--config=nowhere.py"], "No such file or directory: 'nowhere.py'"),
  ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
  done = start("experiments.train", *arguments, f"--workdir={tmp_path / 'r'}")
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: ")
  assert message in line
  assert not (tmp_path / "r").exists()


def test_the_readmes_code_runs():
  text = (ROOT / "README.md").read_text()
  _, code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
  assert len(code.strip().splitlines()) <= 20
  space = {}
  exec(code, space)
  assert int(space["state"].step) == 3


PAGES = sorted(
  path.relative_to(ROOT).as_posix()
  for folder in (".", "docs", "experiments", "benchmarks")
  for path in (ROOT / folder).glob("*.md")
)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_pages_that_a_page_names_exist(page):
  text = (ROOT / page).read_text()
  for path in re.findall(r"experiments/configs/[a-z]\w*\.py", text):
    assert (ROOT / path).exists(), path
  targets = (ROOT / "Makefile").read_text()
  for target in re.findall(r"`make ([a-z][\w-]*)", text):
    assert f"\n{target}:" in targets, target
  for link in re.findall(r"\]\(([^)#:]+\.(?:md|png))", text):
    assert (ROOT / page).parent.joinpath(link).exists(), link


def test_the_readme_is_short():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 150
