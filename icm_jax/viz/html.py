"""Parts of self-contained pages: style, tables, embedded images."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto;
  max-width: 1080px; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { max-width: 46rem; }
.headline { font-size: 1.15rem; }
.good { color: #1a7f37; } .bad { color: #b35900; }
img { max-width: 100%; display: block; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.row figure { flex: 1 1 400px; } figure { margin: 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .2rem .7rem; text-align: right;
  border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, .facts td { text-align: left; }
details { margin: 1.5rem 0; } pre { font-size: .8rem; overflow-x: auto; }
"""


def page(title: str, sections: Iterable[str], *, style: str = STYLE) -> str:
  """Returns an HTML document; sections are markup."""
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    f"<title>icm-jax: {text(title)}</title>"
    f"<style>{style}</style></head><body>{''.join(sections)}</body></html>\n"
  )


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
  """Returns a table of plain text; without a head, lines are name and fact."""

  def row(cells, tag):
    return (
      "<tr>" + "".join(f"<{tag}>{text(c)}</{tag}>" for c in cells) + "</tr>"
    )

  body = "".join(row(line, "td") for line in lines)
  if not head:
    return f'<table class="facts">{body}</table>'
  return f"<table>{row(head, 'th')}{body}</table>"


def details(summary: str, content: str) -> str:
  """Returns a block of plain text that opens on a click."""
  return (
    f"<details><summary>{text(summary)}</summary><pre>{text(content)}</pre>"
    "</details>"
  )


def flags(config: Mapping[str, Any], prefix: str = "") -> str:
  """Returns a config as command-line flags, one per line; plain text."""
  lines = []
  for name, value in config.items():
    path = f"{prefix}{name}"
    if isinstance(value, Mapping):
      lines.append(flags(value, f"{path}."))
    else:
      lines.append(f"--config.{path}={value}")
  return "\n".join(lines)


def image(data: bytes, kind: str, alternative: str) -> str:
  """Returns an embedded image file; `kind` is png or svg+xml."""
  encoded = base64.b64encode(data).decode()
  return (
    f'<img alt="{text(alternative)}" src="data:image/{kind};base64,{encoded}">'
  )


def text(value: str) -> str:
  """Escapes plain text for markup."""
  return html.escape(value)
