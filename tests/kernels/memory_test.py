"""Memory that an update frees stays with the process."""

import ctypes
import platform
import resource

import pytest

from icm_jax import kernels


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="only the GNU C library is asked"
)
def test_large_blocks_are_used_again():
  """Blocks come from the C library, as XLA's do, and are all written."""
  libc = ctypes.CDLL(None)
  libc.malloc.restype = ctypes.c_void_p
  size = 48 << 20

  def write_block() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(ctypes.c_void_p(block))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

  assert kernels.keep_memory()
  write_block()
  pages = size // resource.getpagesize()
  assert min(write_block() for _ in range(3)) < pages / 100


def test_other_systems_are_left_alone(monkeypatch):
  monkeypatch.setattr(kernels.cpu.memory.sys, "platform", "darwin")
  assert not kernels.keep_memory()
