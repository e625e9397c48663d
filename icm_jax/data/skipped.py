"""Pictures that were left out, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# Names that are told of each reason.
_NAMES_SHOWN = 3


def by_reason(skipped: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
  """Names of pictures that were left out, by reason."""
  names: dict[str, list[str]] = {}
  for name, reason in skipped:
    names.setdefault(reason, []).append(name)
  return names


def first(names: Sequence[str]) -> str:
  """The first of many names."""
  more = ", ..." if len(names) > _NAMES_SHOWN else ""
  return ", ".join(names[:_NAMES_SHOWN]) + more


def describe(reasons: Mapping[str, Sequence[str]]) -> str:
  """How many pictures were left out, and why.

  Args:
    reasons: see `by_reason`.
  """
  total = sum(map(len, reasons.values()))
  if not total:
    return "0 skipped"
  each = "; ".join(
    f"{len(names):,} {reason} ({first(names)})"
    for reason, names in reasons.items()
  )
  return f"{total:,} skipped: {each}"
