"""Several processes that train one run together: their start and their end.

JAX lets processes wait for one that has died for minutes, and then ends them
without its name. So each process has a connection to the first one, which
closes when either of the two ends, and tells the others.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import threading
import time

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from icm_jax import types

# Where connections say nothing because a machine is gone: seconds without a
# sign of life after which a process counts as dead.
_DEAD_AFTER_S = 30
# Seconds for which a process that has ended waits for the others.
_END_TOGETHER_S = 15
_CONNECT_S = 10
# Seconds in which the end of another process is noticed.
_NOTICE_S = 3
_TOKEN_BYTES = 16
_GOODBYE = b"."
DEAD = 1  # Exit code.
_ELSEWHERE = (
  " JAX finds processes under SLURM, Open MPI before 5 and on TPUs; elsewhere "
  "each needs --coordinator=HOST:PORT, --processes and --process."
)

_connections: list[socket.socket] = []


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
      f"{reason}{_ELSEWHERE if coordinator == 'auto' else ''}"
    ) from error
  # JAX has taken over SIGTERM, which it only notes.
  signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
  if jax.process_count() > 1:
    _connect()


def is_first() -> bool:
  """Whether this process is the one that writes and reports."""
  return jax.process_index() == 0


def are_several() -> bool:
  """Whether this process is connected with others."""
  return bool(_connections)


def leave_together() -> None:
  """Ends this process's part in a run that the others end too.

  A process that ends without this call has failed, and the others end at once.
  """
  if not are_several():
    return
  for connection in _connections:
    connection.sendall(_GOODBYE)
  _connections.clear()
  # The first process serves the others until all have come this far.
  jax.distributed.shutdown()


def give_way() -> None:
  """Waits for `_watch`, before this process tells an error of its own.

  If the error came because another process has died, `_watch` ends this process
  meanwhile, with a line that names the other one.
  """
  time.sleep(_NOTICE_S)


def _abort_later() -> None:
  """Delays the end of a process that JAX aborts.

  JAX aborts as soon as it has lost the first process, often before `_watch` can
  say which one has died. The signal's handler is `sleep` of the C library,
  whose argument is then the signal's number: 6 seconds, in the thread that
  aborts alone.
  """
  c = ctypes.CDLL(None)
  c.signal.argtypes, c.signal.restype = [ctypes.c_int, ctypes.c_void_p], None
  c.signal(signal.SIGABRT, ctypes.cast(c.sleep, ctypes.c_void_p))


def _connect() -> None:
  """Connects all processes to the first one, and watches the connections."""
  _abort_later()
  listener = socket.socket()
  if is_first():
    listener.bind(("", 0))
    listener.listen(jax.process_count())
  host = flags.FLAGS.coordinator.rpartition(":")[0] or socket.gethostname()
  port = listener.getsockname()[1] if is_first() else 0
  message = f"{host} {port} {secrets.token_hex(_TOKEN_BYTES)}".encode()
  padded = np.zeros(512, np.uint8)
  padded[: len(message)] = np.frombuffer(message, np.uint8)
  padded = np.asarray(multihost_utils.broadcast_one_to_all(padded))
  host, port, token = bytes(padded).rstrip(b"\0").decode().split()
  me = f"{token} {jax.process_index()} on {socket.gethostname()}\n"
  if is_first():
    threading.Thread(
      target=_accept, args=(listener, token), daemon=True
    ).start()
    return
  listener.close()
  connection = socket.create_connection((host, int(port)), _CONNECT_S)
  connection.settimeout(None)
  connection.sendall(me.encode())
  _connections.append(connection)
  first = f"process 0 on {host}"
  threading.Thread(target=_watch, args=(connection, first), daemon=True).start()


def _accept(listener: socket.socket, token: str) -> None:
  for _ in range(jax.process_count() - 1):
    connection, _ = listener.accept()
    threading.Thread(
      target=_greet, args=(connection, token), daemon=True
    ).start()


def _greet(connection: socket.socket, token: str) -> None:
  given, _, name = connection.makefile().readline().strip().partition(" ")
  if secrets.compare_digest(given, token):
    _connections.append(connection)
    _watch(connection, f"process {name}")


def _watch(connection: socket.socket, name: str) -> None:
  """Ends this process when a connection closes without a goodbye."""
  try:
    told = connection.recv(1024)
  except OSError:
    told = b""
  if told == _GOODBYE:
    return
  dead = told.decode() or name
  for other in list(_connections):
    if is_first() and other is not connection:
      other.sendall(dead.encode())
  line = f"error: {dead} has died or failed, and so this process ends too\n"
  os.write(2, line.encode())
  os._exit(DEAD)
