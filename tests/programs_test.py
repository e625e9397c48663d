"""The command `icm`, in a checkout and as it is installed."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from experiments import launch
from icm_jax import __version__, programs

ROOT = pathlib.Path(__file__).parent.parent


def icm(*arguments, cwd, path=ROOT):
  return subprocess.run(
    [sys.executable, "-P", "-m", "icm_jax.programs", *arguments],
    cwd=cwd,
    env={**os.environ, "PYTHONPATH": str(path)},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """The package as a build leaves it, with its programs inside."""
  build = tmp_path_factory.mktemp("build")
  source = build / "source"
  ignored = shutil.ignore_patterns("__pycache__", "*.cc", "*.so")
  for name in ("icm_jax", "experiments"):
    shutil.copytree(ROOT / name, source / name, ignore=ignored)
  for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md"):
    shutil.copy(ROOT / name, source)
  done = subprocess.run(
    [sys.executable, "setup.py", "-q", "build_py", f"--build-lib={build}/lib"],
    cwd=source,
    capture_output=True,
    text=True,
    check=False,
  )
  assert not done.returncode, done.stderr
  assert [path.name for path in (build / "lib").iterdir()] == ["icm_jax"]
  return build / "lib"


def test_every_program_ships(installed):
  shipped = installed / "icm_jax" / "shipped" / "experiments"
  for name in programs.PROGRAMS:
    assert (shipped / f"{name}.py").exists()
  for folder in (".", "configs", "configs/sections"):
    assert {path.name for path in (shipped / folder).glob("*.py")} == {
      path.name for path in (ROOT / "experiments" / folder).glob("*.py")
    }


def test_an_installation_works_outside_the_checkout(installed, tmp_path):
  done = icm("mechanisms", "--help", cwd=tmp_path, path=installed)
  assert "--out" in done.stdout
  done = icm(
    "sweep", "--config=mnist:smoke", "--workdir=runs", "--gather",
    cwd=tmp_path, path=installed,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "runs" / "sweep.html").exists()


def test_the_command_names_its_programs(tmp_path):
  done = icm("--help", cwd=tmp_path)
  assert done.returncode == 0
  for name in (*programs.PROGRAMS, "versions"):
    assert f"icm {name} " in done.stdout
  for name in ("versions", "--version"):
    done = icm(name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"icm-jax: {__version__} ")
  for arguments in ([], ["trian"]):
    done = icm(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: icm needs the name of a program")


def test_errors_and_exit_codes_are_those_of_the_programs(tmp_path):
  done = icm("report", "--workdir=nowhere", cwd=tmp_path)
  assert done.returncode == 2
  assert done.stderr.startswith("error: --workdir=nowhere holds no run")
  done = icm("train", "--config=mnist:fast", "--workdir=r", cwd=tmp_path)
  assert done.returncode == 2
  assert "got 'fast'" in done.stderr


@pytest.mark.parametrize(
  "module", [["icm_jax.programs", "train"], ["experiments.train"]]
)
def test_ctrl_c_ends_a_program_that_imports(module, tmp_path):
  (tmp_path / "jax.py").write_text(
    "import os, signal, time\n"
    "os.kill(os.getpid(), signal.SIGINT)\n"
    "time.sleep(60)\n"
  )
  done = subprocess.run(
    [sys.executable, "-P", "-m", *module, "--workdir=run"],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 130
  assert done.stderr == (
    "error: stopped; files that were written before are whole, and a run goes "
    "on with --resume\n"
  )


def test_configs_that_ship_have_names(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  full = str(ROOT / "experiments" / "configs" / "mnist.py")
  for name in ("mnist", "mnist.py", "experiments/configs/mnist.py"):
    assert launch.config_path(name) == full
    assert launch.config_path(f"{name}:full") == f"{full}:full"
  for name in ("nowhere", "other/mnist.py", "/mnist.py", ""):
    assert launch.config_path(name) == name
  (tmp_path / "mnist.py").touch()
  assert launch.config_path("mnist.py:full") == "mnist.py:full"
