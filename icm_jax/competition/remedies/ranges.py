"""Ranges of the settings of remedies."""

from __future__ import annotations

import math
import numbers

from icm_jax import types


def check(
  name: str,
  value: float,
  *,
  least: float,
  most: float = math.inf,
  whole: bool = False,
) -> None:
  """Checks that a setting lies in its range.

  Args:
    name: names of the remedy and its setting, such as "balance.weight".
    value: value that the user chose.
    least: smallest value that is allowed.
    most: largest value that is allowed.
    whole: whether it must be a whole number.

  Raises:
    InputError: the value is out of its range, or no finite number.
  """
  if (
    not isinstance(value, numbers.Real)
    or not least <= value <= most
    or math.isinf(value)
    or (whole and value != int(value))
  ):
    allowed = f"at least {least}"
    if most < math.inf:
      allowed = f"in [{least}, {most}]"
    if whole:
      allowed += ", and whole"
    raise types.InputError(f"remedies.{name} must be {allowed}; got {value!r}.")
