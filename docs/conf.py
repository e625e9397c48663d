"""The settings of the pages that `make docs` builds.

The source folder is the checkout, not `docs`: pages are built from the files
that people also read without Sphinx, and links between them stay as they are.
"""

project = "icm-jax"

root_doc = "docs/index"
include_patterns = [
  "*.md",
  "benchmarks/README.md",
  "docs/**.md",
  "experiments/README.md",
  "notebooks/*.ipynb",
]
exclude_patterns = [".*", "build", "runs"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 3
# Notebooks are shown as they are; `make notebooks` executes them.
nb_execution_mode = "off"

# Docstrings put code in single backticks, as Markdown does.
default_role = "code"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
add_module_names = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
highlight_language = "text"

html_theme = "furo"
html_title = "icm-jax"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
# A page at the root of the site that leads to the first one.
html_additional_pages = {"index": "root.html"}
templates_path = ["templates"]
html_static_path = ["static"]
html_css_files = ["site.css"]


def setup(app):
  """Leaves out fields of named tuples, which docstrings describe in full."""

  def skip(app, what, name, member, skipped, options):
    text = getattr(member, "__doc__", None) or ""
    return text.startswith("Alias for field number") or None

  app.connect("autodoc-skip-member", skip)
