"""Memory between updates."""

from __future__ import annotations

import ctypes
import sys

# Names and numbers of <malloc.h> in the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_LARGEST = 2**30


def keep_memory() -> bool:
  """Tells the C library to keep the memory that this process frees.

  XLA allocates the memory of an update anew each time. By default, the C
  library returns such large blocks to the system at once, which has to fill
  their pages with zeros for the next update: on a CPU, a tenth of its time.
  Compiling becomes a third slower, because all threads then share one part of
  memory, and the memory of the whole process stays at its peak. So this is for
  processes of many updates, such as `experiments.train`; the library itself
  does not call it.

  Returns:
    Whether the C library took the advice; only the GNU one knows it.
  """
  if not sys.platform.startswith("linux"):
    return False
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is None:
    return False
  # Threads would have parts of memory of their own, each with less room than an
  # update may need. Older versions refuse so high a threshold.
  return bool(
    mallopt(_ARENA_MAX, 1)
    and mallopt(_TRIM_THRESHOLD, _LARGEST)
    and (mallopt(_MMAP_THRESHOLD, _LARGEST) or mallopt(_MMAP_MAX, 0))
  )
