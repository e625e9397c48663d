"""Several processes that train one run together: flags, and their start."""

from __future__ import annotations

import jax
from absl import flags

from icm_jax import types

# Seconds without a sign of life after which a process counts as dead, and the
# others end.
_DEAD_AFTER_S = 30
# Seconds for which a process that has ended waits for the others.
_END_TOGETHER_S = 15


def define_flags() -> None:
  """Defines the flags of a process that is one of several."""
  flags.DEFINE_string(
    "coordinator",
    "",
    "One of several processes: HOST:PORT of the first one, or auto under "
    "SLURM, Open MPI and on TPUs.",
  )
  flags.DEFINE_integer("processes", 0, "Number of processes.", lower_bound=0)
  flags.DEFINE_integer("process", 0, "Number of this process.", lower_bound=0)


def start() -> None:
  """Joins the other processes, if flags say that there are any.

  Nothing may have used JAX's devices before.

  Raises:
    InputError: flags do not fit together, or the others cannot be found.
  """
  coordinator = flags.FLAGS.coordinator
  count, index = flags.FLAGS.processes, flags.FLAGS.process
  if not coordinator:
    if count or index:
      raise types.InputError(
        "--processes and --process need --coordinator=HOST:PORT, an address "
        "of the first process."
      )
    return
  found = {}
  if coordinator != "auto":
    if index >= count or ":" not in coordinator:
      raise types.InputError(
        "Each of several processes needs --coordinator=HOST:PORT, --processes "
        f"and --process, from 0 to one less; got {coordinator!r}, {count} and "
        f"{index}."
      )
    found = dict(
      coordinator_address=coordinator, num_processes=count, process_id=index
    )
  try:
    jax.distributed.initialize(
      **found,
      heartbeat_timeout_seconds=_DEAD_AFTER_S,
      shutdown_timeout_seconds=_END_TOGETHER_S,
    )
  # What cannot be found or reached is told by several kinds of errors.
  except (ValueError, RuntimeError) as error:
    reason = str(error).strip().partition("\n")[0]
    raise types.InputError(
      f"The processes of --coordinator={coordinator} cannot start together: "
      f"{reason}"
    ) from error


def is_first() -> bool:
  """Whether this process is the one that writes and reports."""
  return jax.process_index() == 0
