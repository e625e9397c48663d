"""The training loop of all kinds of runs: updates, logs, evaluations, saves."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np

from icm_jax import types
from icm_jax.training import (
  checkpoint,
  metrics,
  run_folder,
  sharding,
  state_arrays,
)

if TYPE_CHECKING:
  import ml_collections


class Reporter(Protocol):
  """Reports a run to a person; the library itself prints nothing."""

  def say(self, text: str) -> None:
    """Reports a line of text."""

  def progress(
    self, step: int, total: int, values: Mapping[str, np.ndarray]
  ) -> None:
    """Reports the metrics of the steps since the last report."""

  def prepare(self, what: str, done: int, total: int) -> None:
    """Reports how much of the data is prepared; a total of 0 is unknown."""


class Silent:
  """A reporter that reports nothing."""

  def say(self, text: str) -> None:
    del text

  def progress(
    self, step: int, total: int, values: Mapping[str, np.ndarray]
  ) -> None:
    del step, total, values

  def prepare(self, what: str, done: int, total: int) -> None:
    del what, done, total


class Writer(Protocol):
  """Writes rows of metrics, as `metrics.MetricWriter` does."""

  def write(self, step: int, wall_s: float, values: Mapping[str, Any]) -> None:
    """Writes one row."""


class Stop(Protocol):
  """Tells whether a stop was requested, as `StopRequest` does.

  Attributes:
    signal: number of the signal that came first; 0 before.
  """

  signal: int

  def is_set(self) -> bool:
    """Returns whether it was."""


class Interrupted(Exception):
  """The user has stopped the run, and a checkpoint is saved.

  Attributes:
    signal: number of the signal that came, from which programs make their exit
      code.
  """

  def __init__(self, message: str, signal_number: int = signal.SIGINT):
    super().__init__(message)
    self.signal = signal_number


class StopRequest(threading.Event):
  """An event that is set when the process is asked to stop.

  Attributes:
    signal: number of the signal that came first; 0 before.
  """

  signal: int = 0


class AnyProcess:
  """A request to stop that reaches all of several processes at the same step.

  All processes must ask for it equally often.

  Attributes:
    signal: number of the signal that a process got; 0 before.
  """

  def __init__(self, own: StopRequest, *, every: int):
    """Watches the request of this process.

    Args:
      own: request that this process gets.
      every: questions after which processes talk to each other again.
    """
    self._own, self._every = own, every
    self._asked, self.signal = 0, 0

  def is_set(self) -> bool:
    """Returns whether any process is known to be asked to stop."""
    self._asked += 1
    if jax.process_count() == 1:
      self.signal = self._own.signal
    elif not self.signal and self._asked % self._every == 0:
      self.signal = sharding.largest(self._own.signal)
    return self.signal > 0


class Clock:
  """Seconds by stage, summed over interrupted runs.

  Attributes:
    seconds: seconds of the stages `start`, `compile`, `classifier`, `identity`,
      `train` and `evaluate`; and `total`, which includes time outside stages.
  """

  def __init__(self, started: float, seconds: Mapping[str, float]):
    """Continues a clock.

    Args:
      started: `time.perf_counter()` at the start of the first stage.
      seconds: seconds of earlier, interrupted runs.
    """
    self._last = started
    self.seconds = dict(seconds)

  def lap(self, stage: str | None = None) -> None:
    """Adds the time since the last lap to a stage, if any, and to the total."""
    now = time.perf_counter()
    for name in ("total", stage) if stage else ("total",):
      self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
    self._last = now


def due(step: int, every: int, total: int) -> bool:
  """Returns True on multiples of `every` and on the last step; 0 is never."""
  return every > 0 and (step % every == 0 or step == total)


class TrainLoop(NamedTuple):
  """The updates of a run, with its logs, evaluations and checkpoints.

  Attributes:
    update: function from a state, which is donated, to the next state and
      metrics with a leading axis of updates.
    evaluate: function from a state to values by `area/name`.
    save: function that writes a checkpoint of a state.
    every: number of updates from one `log`, `evaluate` or `checkpoint` to the
      next; 0 is never.
    clock: counts the seconds of `train` and `evaluate`.
    writer: writes rows of metrics and of evaluations.
    reporter: reports progress to the user.
    stop_requested: tells whether the run is to stop.
    not_finite: describes the parts of a state that are not finite.
  """

  update: Callable[[Any], tuple[Any, types.Metrics]]
  evaluate: Callable[[Any], Mapping[str, Any]]
  save: Callable[[Any], None]
  every: ml_collections.ConfigDict
  clock: Clock
  writer: Writer
  reporter: Reporter
  stop_requested: Stop
  not_finite: Callable[[Any], str] = state_arrays.not_finite

  def write_evaluation(self, state: Any, step: int) -> None:
    """Evaluates a state, and writes the values as a row of metrics."""
    values = self.evaluate(state)
    self.clock.lap("evaluate")
    self.writer.write(
      step,
      self.clock.seconds.get("train", 0.0),
      {f"evaluation/{name}": value for name, value in values.items()},
    )

  def run(
    self,
    state: Any,
    first: int,
    last: int,
    *,
    stride: int = 1,
    begin: int = 0,
    total: int | None = None,
  ) -> Any:
    """Runs updates.

    Args:
      state: state after `first` updates; donated.
      first: number of updates that are done.
      last: number of updates at the end; `stride` divides the difference.
      stride: number of updates of one call of `update`.
      begin: update from which the intervals of `every` are counted.
      total: number of updates of the whole run; None is `last`.

    Returns:
      The state after `last` updates.

    Raises:
      FloatingPointError: a metric is not finite; names the step, the metrics,
        and the experts that are not finite when the metrics are looked at.
      Interrupted: a stop was requested, and a checkpoint is written.
    """
    total = last if total is None else total
    pending: list[types.Metrics] = []
    for step in range(first + stride, last + 1, stride):
      state, dispatched = self.update(state)
      pending.append(dispatched)
      own, updates = step - begin, last - begin
      stop = self.stop_requested.is_set()
      save = due(own, self.every.checkpoint, updates) or stop
      evaluate = due(own, self.every.evaluate, updates)
      if due(own, self.every.log, updates) or save or evaluate:
        rows = [
          jax.tree.map(lambda a, i=i: a[i], values)
          for values in jax.device_get(pending)
          for i in range(stride)
        ]
        try:
          row = metrics.summarise(step - len(rows) + 1, rows)
        except FloatingPointError as error:
          raise FloatingPointError(
            f"{error} Not finite when this was noticed, after step {step}: "
            f"{self.not_finite(state) or 'nothing of the state'}."
          ) from error
        pending = []
        self.clock.lap("train")
        self.writer.write(step, self.clock.seconds["train"], row)
        self.reporter.progress(step, total, row)
      if evaluate:
        self.write_evaluation(state, step)
      if save:
        self.save(state)
        self.clock.lap()
      if stop and step < total:
        raise Interrupted(
          f"Stopped after step {step}; continue with --resume.",
          self.stop_requested.signal,
        )
    return state


@contextlib.contextmanager
def occupy(
  workdir: pathlib.Path, config: ml_collections.ConfigDict, saw: dict[str, Any]
) -> Iterator[checkpoint.Checkpoints]:
  """Keeps a run's folder for this process, and opens its checkpoints.

  Args:
    workdir: folder of the run.
    config: config of the run.
    saw: see `run_folder.hold`.

  Raises:
    InputError: another process works in the folder, or the run saw other data.
  """
  # One process of several holds the folder for all.
  with (
    run_folder.hold(workdir, config, saw)
    if sharding.is_first()
    else contextlib.nullcontext(),
    contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints,
  ):
    yield checkpoints


@contextlib.contextmanager
def saves_before_it_stops(
  wait: Callable[[], None], reporter: Reporter
) -> Iterator[StopRequest]:
  """Turns signals into requests to stop while there is something to save.

  Before and after, SIGINT and SIGTERM do what the program has set up for them,
  because nothing is lost then.

  Args:
    wait: waits until checkpoints are written; called when the block ends.
    reporter: told at once when the process is asked to stop.

  Raises:
    Interrupted: a stop was requested too late for the block to act on it.
  """
  with stop_requests(
    lambda: reporter.say(
      "stopping after the next step, with a checkpoint; once more ends at "
      "once, without"
    )
  ) as stop_requested:
    yield stop_requested
    wait()
  number = sharding.largest(stop_requested.signal)
  if number:
    raise Interrupted(
      "Stopped after the last step; --resume evaluates it.", number
    )


@contextlib.contextmanager
def stop_requests(
  acknowledge: Callable[[], None] = lambda: None,
) -> Iterator[StopRequest]:
  """Turns the first SIGINT or SIGTERM into an event.

  The second one does what it would have done before. An exception in the
  middle of a step would leave its donated state unusable.

  Args:
    acknowledge: called by another thread as soon as a signal comes. Python
      itself handles signals only between compiled calls.

  Yields:
    The event, which is set when a stop is requested.
  """
  requested = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield requested  # Only the main thread may handle signals.
    return
  kinds = (signal.SIGINT, signal.SIGTERM)
  previous: dict[int, Any] = {}

  def request(number, frame):
    del frame
    if not requested.is_set():
      requested.signal = number
      requested.set()
    for kind in kinds:
      signal.signal(kind, previous[kind])

  def listen():
    signals = b""
    while came := os.read(reading, 1):
      if came[0] not in kinds:
        continue
      signals += came
      if len(signals) == 1:
        acknowledge()
      # Whoever listened before may end the process while compiled code runs.
      elif earlier >= 0:
        os.write(earlier, signals)

  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  earlier = -1
  listener = threading.Thread(target=listen, daemon=True)
  listener.start()
  for kind in kinds:
    previous[kind] = signal.signal(kind, request)
  earlier = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
  try:
    yield requested
  finally:
    signal.set_wakeup_fd(earlier, warn_on_full_buffer=False)
    for kind in kinds:
      signal.signal(kind, previous[kind])
    os.close(writing)
    listener.join()
    os.close(reading)
