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
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
FILE = pathlib.Path(__file__).with_name(f"_compiled{_SUFFIX}")
# The same with vectors of 16 floats, for machines with AVX-512.
WIDE_FILE = FILE.with_name(f"_compiled_wide{_SUFFIX}")
# Functions of a library that XLA may call.
TARGETS = (
  "IcmStack",
  "IcmStackGradient",
  "IcmBatchNorm",
  "IcmBatchNormGradient",
)
_WIDE = "Wide"  # The end of XLA's names for functions of the second library.


@functools.cache
def registered() -> frozenset[str]:
  """Returns the names of functions that programs for this CPU can call.

  The first call loads the library; if that fails, it warns, and there are none.
  """
  try:
    # JAX may be tracing or lowering another program now, for other devices. Its
    # state is local to threads, so that a new thread is free of it.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
      return executor.submit(_load).result()
  except Exception as error:  # Programs must run without the library.
    warnings.warn(
      f"The compiled library of icm_jax cannot be used: {_reason(error)} XLA "
      "takes its place, several times slower on a CPU. Set ICM_JAX_KERNELS=xla "
      "to silence this warning.",
      RuntimeWarning,
      stacklevel=2,
    )
    return frozenset()


def is_available() -> bool:
  """Whether programs for this machine's CPU can call the library."""
  return bool(registered())


def form(target: str, channels: Sequence[int]) -> str:
  """Returns the form of a function that suits numbers of channels.

  Args:
    target: a name of `TARGETS`.
    channels: sizes of the last axes of all arguments.

  Returns:
    The name of a registered function.
  """
  # Otherwise longer vectors would be half empty. Up to 4 channels are not in
  # vectors.
  full = all(count <= 4 or count % 16 == 0 for count in channels)
  wide = target + _WIDE
  return wide if full and wide in registered() else target


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
  names = _register()
  _try(device)
  return names


def _register():
  """Registers functions with XLA; returns their names."""
  if not FILE.exists():
    raise _Unusable(
      "it was not compiled when the package was installed, perhaps because "
      "there was no C++ compiler; install one, and then the package again."
    )
  functions = _open(FILE)
  if functions is None:
    raise _Unusable("it was compiled for a newer kind of processor.")
  found = {target: functions[target] for target in TARGETS}
  # Older compilers do not know AVX-512, nor do many machines.
  if WIDE_FILE.exists() and (functions := _open(WIDE_FILE)):
    found |= {target + _WIDE: functions[target] for target in TARGETS}
  for name, function in found.items():
    call = jax.ffi.pycapsule(function)
    jax.ffi.register_ffi_target(name, call, platform="cpu")
  return frozenset(found)


def _open(file: pathlib.Path) -> ctypes.CDLL | None:
  """Loads a library; None if this machine lacks some of its instructions."""
  if _is_cut_off(file):
    raise _Unusable("its file was cut off; install the package again.")
  functions = ctypes.CDLL(str(file))
  functions.IcmMachineCanRun.restype = ctypes.c_bool
  return functions if functions.IcmMachineCanRun() else None


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
