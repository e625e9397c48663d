"""Whether programs may call compiled functions."""

from __future__ import annotations

import contextlib
import os

import jax

from icm_jax import types

VARIABLE = "ICM_JAX_KERNELS"
FORMS = ("auto", "xla")

# Part of the key of `jax.jit`'s cache: a function that was traced with one
# choice is traced again with another.
_CHOSEN = jax.make_user_context(None)


def use(form: str) -> contextlib.AbstractContextManager[None]:
  """Chooses the form of kernels in programs that are traced inside.

    with kernels.use("xla"):
      state, metrics = jax.jit(step)(state, batch)

  Args:
    form: "auto", compiled functions where a program is lowered for a CPU and
      the library is there; or "xla", XLA's operations everywhere. It outweighs
      the environment variable `ICM_JAX_KERNELS`, which has the same values.

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
