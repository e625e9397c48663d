"""Roles of a data set's examples: canonical, or a group that is a mechanism."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from icm_jax import types

CANONICAL = 0
UNUSED = -1


class Roles(NamedTuple):
  """Rules that give every example of a data set its role.

  A rule is a text about the columns of a data set: `condition=glasses`,
  `condition=sad|happy`, `age=60-120` (both ends included), `Eyeglasses=1` for
  yes and `=0` for no; `&` joins rules that must all hold. The empty rule holds
  for every example.

  With groups, an example is canonical if the canonical rule holds and no
  group's rule does. It belongs to a group if that group's rule holds and no
  other group's does, so that one mechanism acted alone. Without groups, image
  mechanisms act on canonical examples.

  Attributes:
    canonical: rule for canonical examples.
    groups: rules by name of the group, in the order of their numbers.
    person: column that says who is seen (or which drawing, if a drawing may
      occur twice), or "" if no column does; the parts of a problem never share
      a person.
  """

  canonical: str = ""
  groups: Mapping[str, str] = {}
  person: str = ""


def assign(
  roles: Roles, columns: Mapping[str, np.ndarray], num_examples: int
) -> np.ndarray:
  """Gives every example its role.

  Args:
    roles: rules of the data set.
    columns: [N] arrays by name.
    num_examples: N.

  Returns:
    [N] int32: `CANONICAL`, 1 to M for the groups in their order, or `UNUSED`.

  Raises:
    InputError: a rule cannot be read, or names an unknown column.
  """
  canonical_N = matches(roles.canonical, columns, num_examples)
  if not roles.groups:
    return np.where(canonical_N, CANONICAL, UNUSED).astype(np.int32)
  member_MN = np.stack(
    [matches(rule, columns, num_examples) for rule in roles.groups.values()]
  )
  count_N = member_MN.sum(axis=0)
  role_N = np.full(num_examples, UNUSED, np.int32)
  role_N[canonical_N & (count_N == 0)] = CANONICAL
  alone_N = count_N == 1
  role_N[alone_N] = 1 + member_MN.argmax(axis=0)[alone_N]
  return role_N


def choose(roles: Roles, names: tuple[str, ...]) -> Roles:
  """Selects groups.

  Args:
    roles: roles of a data set, with all groups that it knows.
    names: names of known groups, or rules; empty for no groups.

  Raises:
    InputError: a name is neither a known group nor a rule.
  """
  chosen = {}
  for name in names:
    if name in roles.groups:
      chosen[name] = roles.groups[name]
    elif "=" in name:
      chosen[name] = name
    else:
      raise types.InputError(
        f"Unknown group {name!r}; known: "
        f"{', '.join(roles.groups) or 'none'}. A rule such as column=value is "
        "a group too."
      )
  return roles._replace(groups=chosen)


def matches(
  rule: str, columns: Mapping[str, np.ndarray], num_examples: int
) -> np.ndarray:
  """Whether a rule holds for each example, [N] bool.

  Raises:
    InputError: the rule cannot be read, or names an unknown column.
  """
  holds_N = np.ones(num_examples, bool)
  for part in rule.split("&") if rule else ():
    column, equals, values = (text.strip() for text in part.partition("="))
    if not equals or not values:
      raise types.InputError(
        f"A rule must look like column=value or column=low-high; got {rule!r}."
      )
    if column not in columns:
      raise types.InputError(
        f"The rule {rule!r} names an unknown column; known: "
        f"{', '.join(columns) or 'none'}."
      )
    holds_N &= _any_value(columns[column], values, rule)
  return holds_N


def _any_value(column_N: np.ndarray, values: str, rule: str) -> np.ndarray:
  if column_N.dtype.kind == "U":
    return np.isin(column_N, [value.strip() for value in values.split("|")])
  any_N = np.zeros(len(column_N), bool)
  for value in values.split("|"):
    interval = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", value)
    if not interval:
      raise types.InputError(
        f"The rule {rule!r} is about numbers; {value.strip()!r} is neither a "
        "number nor an interval such as 20-39."
      )
    low = int(interval[1])
    high = low if interval[2] is None else int(interval[2])
    any_N |= (low <= column_N) & (column_N <= high)
  return any_N
