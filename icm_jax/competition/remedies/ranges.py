"""Ranges of the settings of remedies."""

from __future__ import annotations

import math

from icm_jax import types


def check(
  name: str, value: float, *, least: float, most: float = math.inf
) -> None:
  """Checks that a setting lies in its range.

  Args:
    name: names of the remedy and its setting, such as "balance.weight".
    value: value that the user chose.
    least: smallest value that is allowed.
    most: largest value that is allowed.

  Raises:
    InputError: the value is out of its range, or NaN.
  """
  if not least <= value <= most:
    allowed = f"at least {least}"
    if most < math.inf:
      allowed = f"in [{least}, {most}]"
    raise types.InputError(f"remedies.{name} must be {allowed}; got {value!r}.")
