"""The pages that `make docs` builds: nothing is forgotten."""

import importlib
import inspect
import pathlib
import re

import icm_jax

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"


def listed(page: pathlib.Path) -> set[pathlib.Path]:
  """The pages that the tables of contents of a page list."""
  found = set()
  for table in re.findall(r"```{toctree}\n(.*?)```", page.read_text(), re.S):
    for line in filter(None, table.split("\n")):
      if not line.startswith(":"):
        name = re.sub(r"^.*<(.*)>$", r"\1", line)
        paths = list(page.parent.glob(f"{name}.*"))
        assert paths, f"{page} lists {name}, which is no page"
        found |= {path.resolve() for path in paths}
  return found


def test_every_page_is_listed():
  pages = {*ROOT.glob("*.md"), *DOCS.glob("*.md")}
  pages |= {
    *(ROOT / "notebooks").glob("*.ipynb"),
    ROOT / "benchmarks" / "README.md",
    ROOT / "experiments" / "README.md",
    DOCS / "reference" / "index.md",
  }
  missing = pages - {DOCS / "index.md"} - listed(DOCS / "index.md")
  assert not missing, f"docs/index.md does not list {missing}"


def test_no_line_of_a_page_is_lost():
  """MyST takes a line that begins with a percent sign for a comment."""
  for page in sorted(listed(DOCS / "index.md")):
    if page.suffix == ".md":
      lost = re.findall(r"(?m)^\s*%.*$", page.read_text())
      assert not lost, f"{page.name} loses {lost}"


def test_every_public_module_is_in_the_reference():
  folder = DOCS / "reference"
  pages = {path.stem for path in listed(folder / "index.md")}
  assert pages == set(icm_jax.__all__)
  for name in icm_jax.__all__:
    package = importlib.import_module(f"icm_jax.{name}")
    modules = {f"icm_jax.{name}"} | {
      f"icm_jax.{name}.{public}"
      for public in package.__all__
      # Modules that nothing has imported are no attributes yet.
      if inspect.ismodule(getattr(package, public, inspect))
    }
    text = (folder / f"{name}.md").read_text()
    assert set(re.findall(r"automodule:: (.*)", text)) == modules
    # Constants and types have no docstrings, so that the page describes them.
    data = {
      public
      for public in package.__all__
      if hasattr(package, public)
      and not inspect.ismodule(getattr(package, public))
      and not hasattr(getattr(package, public), "__qualname__")
    }
    assert data <= set(re.findall(r"py:data:: (.*)", text)), data
