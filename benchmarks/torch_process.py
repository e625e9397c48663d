"""PyTorch in a separate process and environment."""

import contextlib
import json
import pathlib
import subprocess
import threading
from collections.abc import Iterator


class TorchProcess(contextlib.AbstractContextManager):
  """A program of this folder that answers JSON requests, one per line."""

  def __init__(self, python: str, file: str):
    """Starts the program.

    Args:
      python: a Python that has PyTorch.
      file: name of the program, whose docstring lists the requests.
    """
    self._process = subprocess.Popen(
      [python, str(pathlib.Path(__file__).with_name(file))],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def __exit__(self, *exception):
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.wait()

  @contextlib.contextmanager
  def limit(self, seconds: float) -> Iterator[None]:
    """Ends the program if the block takes longer; `ask` then raises.

    Args:
      seconds: limit of the block.
    """
    timer = threading.Timer(seconds, self._process.kill)
    timer.start()
    try:
      yield
    finally:
      timer.cancel()

  def ask(self, **request):
    """Sends a request and waits for its answer.

    Raises:
      OSError, ValueError: the program has ended.
    """
    self._process.stdin.write(json.dumps(request) + "\n")
    self._process.stdin.flush()
    return json.loads(self._process.stdout.readline())
