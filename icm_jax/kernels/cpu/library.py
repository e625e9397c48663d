"""The library of compiled functions: it is loaded, registered and tested here.

`setup.py` compiles the library when the package is installed. If it is missing
or cannot be used, one warning says why, and XLA's operations take its place.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import pathlib
import sysconfig
import warnings

import jax
import jax.numpy as jnp
import numpy as np

FILE = pathlib.Path(__file__).with_name(
  f"_compiled{sysconfig.get_config_var('EXT_SUFFIX')}"
)
# Functions of the library that XLA may call.
TARGETS = (
  "IcmStack",
  "IcmStackGradient",
  "IcmBatchNorm",
  "IcmBatchNormGradient",
)


@functools.cache
def is_available() -> bool:
  """Whether programs for this machine's CPU can call the library.

  The first call loads the library; if that fails, it warns.
  """
  try:
    # JAX may be tracing or lowering another program now, for other devices. Its
    # state is local to threads, so that a new thread is free of it.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
      executor.submit(_load).result()
  except Exception as error:  # Programs must run without the library.
    warnings.warn(
      f"The compiled library of icm_jax cannot be used: {_reason(error)} XLA "
      "takes its place, several times slower on a CPU. Set ICM_JAX_KERNELS=xla "
      "to silence this warning.",
      RuntimeWarning,
      stacklevel=2,
    )
    return False
  return True


class _Unusable(Exception):
  """The reason why the library cannot be used, as the end of a sentence."""


def _reason(error):
  if isinstance(error, _Unusable):
    return str(error)
  first_line = (str(error) or repr(error)).splitlines()[0]
  return f"it cannot be loaded or called ({first_line})."


def _load():
  # XLA must have started before anything is registered: otherwise a function
  # that it refuses would make its start fail.
  device = jax.local_devices(backend="cpu")[0]
  _register()
  _try(device)


def _register():
  """Registers the library's functions with XLA."""
  if not FILE.exists():
    raise _Unusable(
      "it was not compiled when the package was installed, perhaps because "
      "there was no C++ compiler; install one, and then the package again."
    )
  if _is_cut_off(FILE):
    raise _Unusable("its file was cut off; install the package again.")
  functions = ctypes.CDLL(str(FILE))
  functions.IcmMachineCanRun.restype = ctypes.c_bool
  if not functions.IcmMachineCanRun():
    raise _Unusable("it was compiled for a newer kind of processor.")
  for target in TARGETS:
    call = jax.ffi.pycapsule(getattr(functions, target))
    jax.ffi.register_ffi_target(target, call, platform="cpu")


def _is_cut_off(file: pathlib.Path) -> bool:
  """Whether the end of a library is missing; to load it would kill Python.

  The table of sections comes last in a file of 64-bit ELF; others are not
  looked at.
  """
  with file.open("rb") as opened:
    header = opened.read(64)
  if header[:6] != b"\x7fELF\x02\x01":
    return False
  number = lambda start, stop: int.from_bytes(header[start:stop], "little")
  end = number(40, 48) + number(58, 60) * number(60, 62)
  return file.stat().st_size < end


def _try(device):
  """Calls the library once, because XLA may refuse a registered function."""

  @jax.jit
  def tiny():
    pixel = jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.float32)
    (y_BHWC,) = jax.ffi.ffi_call("IcmStack", [pixel])(
      jnp.ones((1, 1, 1, 1), jnp.float32),
      jnp.ones((3, 3, 1, 1), jnp.float32),
      jnp.ones(1, jnp.float32),
      elu=np.zeros(1, np.int64),
      halve=np.zeros(1, np.int64),
      save=False,
    )
    return y_BHWC

  with jax.default_device(device), jax.transfer_guard("allow"):
    value = float(tiny()[0, 0, 0, 0])
  if value != 2.0:
    raise _Unusable(f"it computes 1 * 1 + 1 = {value}.")
