"""The switch that turns compiled functions off."""

from __future__ import annotations

import contextlib
import os

import jax

from icm_jax import types

VARIABLE = "ICM_JAX_KERNELS"
FORMS = ("auto", "xla")

# The choice is part of the key of `jax.jit`'s cache, so that a function that
# was traced with one choice is traced again with another.
_CHOSEN = jax.make_user_context(None)


def use(form: str) -> contextlib.AbstractContextManager[None]:
  """Chooses the form of kernels in programs that are traced inside.

    with kernels.use("xla"):
      state, metrics = jax.jit(step)(state, batch)

  Args:
    form: "auto" uses compiled functions in programs that are lowered for a CPU,
      if the library is available; "xla" uses XLA's operations everywhere. It
      overrides the environment variable `ICM_JAX_KERNELS`, which has the same
      values.

  Raises:
    InputError: the form is unknown.
  """
  return _CHOSEN(_checked(form, "kernels.use"))


def is_xla() -> bool:
  """Whether the user asked for XLA's operations only.

  Raises:
    InputError: the environment variable has an unknown value.
  """
  chosen = _CHOSEN.value or _checked(
    os.environ.get(VARIABLE) or "auto", VARIABLE
  )
  return chosen == "xla"


def _checked(form, name):
  if form not in FORMS:
    raise types.InputError(
      f"{name} must be one of {', '.join(FORMS)}; got {form!r}."
    )
  return form
