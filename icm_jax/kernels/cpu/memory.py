"""Memory between updates."""

from __future__ import annotations

import ctypes
import sys

# Names and numbers of <malloc.h> in the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGEST = 2**30


def keep_memory() -> bool:
  """Tells the C library to keep the memory that this process frees.

  XLA allocates the memory of an update anew each time. By default, the C
  library returns such large blocks to the system at once, which has to fill
  their pages with zeros for the next update: on a CPU, a tenth of its time.
  Programs of this project call this function when they start; the library
  itself does not, because the memory of the whole process stays at its peak.

  Returns:
    Whether the C library took the advice; only the GNU one knows it.
  """
  if not sys.platform.startswith("linux"):
    return False
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is None:
    return False
  # Older versions refuse so high a threshold. One part of memory for all threads
  # (M_ARENA_MAX) would keep more, and make compiling a third slower.
  return bool(
    mallopt(_TRIM_THRESHOLD, _LARGEST)
    and (mallopt(_MMAP_THRESHOLD, _LARGEST) or mallopt(_MMAP_MAX, 0))
  )
