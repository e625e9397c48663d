"""Notebooks run from top to bottom, and carry no output.

`make notebooks` runs them in Jupyter, at their real sizes; here the code of
their cells is run as plain Python, at the sizes of the mode `smoke`.
"""

import json
import pathlib
import re
import sys
from unittest import mock

import matplotlib
import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted(
  (pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb")
)
INSTALL = re.compile(r"^(\s*)%pip .*$", re.MULTILINE)


def code_of(path: pathlib.Path) -> list[str]:
  """The code of the cells of a notebook."""
  cells = json.loads(path.read_text())["cells"]
  return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def test_there_are_notebooks():
  assert len(NOTEBOOKS) >= 3


# `make notebooks` runs all of them. Other tests train the config of `faces`,
# and run the step of the README, which is that of `your_own_step`.
@pytest.mark.parametrize(
  "path", [p for p in NOTEBOOKS if p.stem == "quickstart"], ids=lambda p: p.stem
)
def test_a_notebook_runs(path, drawn_data, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("MODE", "smoke")
  monkeypatch.setattr(sys, "path", list(sys.path))
  matplotlib.use("agg")
  space = {"__name__": "__main__", "display": mock.Mock()}
  for number, code in enumerate(code_of(path)):
    # Everything is installed, so that nothing may be installed.
    plain = INSTALL.sub(r"\1raise AssertionError('an installation')", code)
    exec(compile(plain, f"{path.name}, code cell {number}", "exec"), space)
    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_no_output(path):
  for cell in json.loads(path.read_text())["cells"]:
    assert not cell.get("outputs"), "".join(cell["source"])
    assert cell.get("execution_count") is None, "".join(cell["source"])


def test_all_notebooks_install_in_the_same_way():
  assert len({code_of(path)[0] for path in NOTEBOOKS}) == 1
