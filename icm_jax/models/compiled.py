"""What was compiled for CPUs when the package was installed.

`convolution.cc` and `normalisation.cc` are one library. Where there
was no C++ compiler, XLA does the same, slower.
"""

import ctypes
import functools
import pathlib
import sysconfig

import jax
import jax.numpy as jnp

_CALLS = (
  "IcmStack",
  "IcmStackGradient",
  "IcmBatchNorm",
  "IcmBatchNormGradient",
)


@functools.cache
def is_compiled() -> bool:
  """Whether it is there, and this machine can run it."""
  suffix = sysconfig.get_config_var("EXT_SUFFIX")
  path = pathlib.Path(__file__).with_name(f"_compiled{suffix}")
  if not path.exists():
    return False
  library = ctypes.CDLL(str(path))
  library.IcmMachineCanRun.restype = ctypes.c_bool
  if not library.IcmMachineCanRun():
    return False
  for name in _CALLS:
    call = jax.ffi.pycapsule(getattr(library, name))
    jax.ffi.register_ffi_target(name, call, platform="cpu")
  return True


def takes(*arrays: jax.Array) -> bool:
  """Whether compiled calls take these: float32, on a CPU."""
  return (
    all(array.dtype == jnp.float32 for array in arrays)
    and jax.default_backend() == "cpu"
    and is_compiled()
  )
