"""The programs as a user starts them, and the claims of the README."""

import pathlib
import re
import signal
import subprocess
import sys

import pytest
from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import config_flags

from experiments import launch
from experiments.configs import own_pictures

ROOT = pathlib.Path(__file__).parent.parent
# As `python -m` imports the package, and a signal in the middle of imports
# that swallow exceptions.
_INTERRUPTED_IMPORT = """
import os, sys, time
number = int(sys.argv[1])
sys.argv = ["-m"]
import experiments
try:
  os.kill(os.getpid(), number)
  time.sleep(60)
except BaseException:
  print("swallowed", file=sys.stderr)
"""
# A program that puts things in order when it is stopped, swallows exceptions,
# or is asked twice while compiled code runs.
_INTERRUPTED_WORK = """
import os, signal, sys, time
number, how = int(sys.argv[1]), sys.argv[2]
sys.argv = ["-m"]
from experiments import interrupt, launch
from icm_jax.training import train_loop
interrupt._CLEAN_S = 0.5

def main():
  try:
    if how == "twice":
      with train_loop.stop_requests(lambda: print("heard", flush=True)):
        os.kill(os.getpid(), number)
        time.sleep(0.2)
        signal.signal(number, lambda *_: None)
        os.kill(os.getpid(), number)
        time.sleep(60)
    os.kill(os.getpid(), number)
    time.sleep(60)
  except BaseException:
    if how == "swallowed":
      time.sleep(60)
    print("in order", flush=True)
    raise

sys.argv = ["program"]
launch.run(main)
"""
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
      "--config.train.steps=2",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout == ""
  assert "step 2/2" in done.stderr
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
  assert "holds a run already" in again.stderr


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([CONFIG, "--config.experts.count=0"], "at least 1, or auto; got 0"),
    ([CONFIG, "--config.experts.cuont=3"], 'Did you mean "count"'),
    (
      ["--config=experiments/configs/mnist.py:fast"],
      "experiments/configs/mnist.py, line 22: ValueError: mode must be",
    ),
  ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
  done = start("experiments.train", *arguments, f"--workdir={tmp_path / 'r'}")
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: ")
  assert message in line
  assert not (tmp_path / "r").exists()


def config_error(monkeypatch, *arguments):
  """Returns what a program says of its config's arguments, without starting."""
  monkeypatch.setattr(sys, "argv", ["train", *arguments])
  parsed = flags.FlagValues()
  config_flags.DEFINE_config_file(
    "config", flag_values=parsed, sys_argv=["", *arguments]
  )
  with pytest.raises(Exception) as caught:  # noqa: PT011
    _ = parsed(["", *arguments]) and parsed["config"].value["seed"]
  return launch.one_line(caught.value)


# ml_collections loads config files by a deprecated function.
LOADS_CONFIGS = pytest.mark.filterwarnings("ignore:the load_module")


@LOADS_CONFIGS
@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([CONFIG, "--config.train.step=5"], "value 'step'. Did you mean \"steps\""),
    ([CONFIG, "--config.xyzzy=1"], "unknown config value 'xyzzy'"),
    (["--config=nowhere.py"], "No such file or directory: 'nowhere.py'"),
  ],
)
def test_a_wrong_config_is_named(arguments, message, monkeypatch):
  monkeypatch.chdir(ROOT)
  line = config_error(monkeypatch, *arguments)
  assert message in line
  assert "\n" not in line


@LOADS_CONFIGS
@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("def get_config():\n  return 1 / 0\n", "line 2: ZeroDivisionError: div"),
    ("def get_config():\n  return nothing\n", "line 2: NameError: name 'noth"),
    ("import no_such_package\n", "line 1: ModuleNotFoundError: No module"),
    ("def get_config(:\n", "own.py: invalid syntax (own.py, line 1)"),
  ],
)
def test_an_error_in_a_config_names_its_line(
  text, message, tmp_path, monkeypatch
):
  path = tmp_path / "own.py"
  path.write_text(text)
  line = config_error(monkeypatch, f"--config={path}")
  assert line.startswith(str(path))
  assert message in line


@pytest.mark.parametrize(
  ("program", "required"),
  [
    ("train", ["config", "workdir"]),
    ("restore", ["images", "out", "workdir"]),
  ],
)
def test_help_lists_what_is_required(program, required):
  done = start(f"experiments.{program}", "--help")
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""
  found = re.findall(r"\n  --(\w+): .*\(required\)", done.stdout)
  assert found == required
  assert "tfds_debug" not in done.stdout.partition("Flags:")[2]


STOPPED = (
  "error: stopped; files that were written before are whole, and a run goes on "
  "with --resume\n"
)


def interrupted(program, number, *more):
  return subprocess.run(
    [sys.executable, "-c", program, str(int(number)), *more],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )


@pytest.mark.parametrize(
  ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_during_imports_is_one_line(number, code):
  done = interrupted(_INTERRUPTED_IMPORT, number)
  assert (done.returncode, done.stderr) == (code, STOPPED)


@pytest.mark.parametrize(
  ("how", "printed"),
  [("once", "in order\n"), ("swallowed", ""), ("twice", "heard\n")],
)
def test_a_signal_ends_a_program_whatever_it_does(how, printed):
  done = interrupted(_INTERRUPTED_WORK, signal.SIGTERM, how)
  assert (done.returncode, done.stderr) == (143, STOPPED)
  assert done.stdout == printed


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


def test_the_flags_of_the_page_on_own_pictures_exist():
  config = own_pictures.get_config()
  page = (ROOT / "docs" / "own_pictures.md").read_text()
  names = set(re.findall(r"--config\.([\w.]+)=", page))
  assert {"data.name", "experts.count", "seed"} <= names
  assert names <= set(flatten_dict(config.to_dict(), sep="."))
  assert config.data.name in page


def test_the_readme_is_short():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 150
