"""A headless Chromium that tests drive by its DevTools protocol.

Messages go through two pipes, so that no package, driver or port is needed:
https://chromedevtools.github.io/devtools-protocol
"""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Seconds until a test gives up; two tests and a server may share two cores.
PATIENCE = 120.0


def find() -> str | None:
  """The path of a Chromium on this machine; None if there is none."""
  return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
  """A page of a browser.

  Attributes:
    urls: every address that the page has asked for, in their order.
    complaints: errors and warnings of the page's scripts, as JSON.
  """

  def __init__(self, to: int, come: int):
    self.urls: list[str] = []
    self.complaints: list[str] = []
    self._to, self._from = to, come
    self._number, self._left, self._session = 0, b"", ""
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
    self._session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Network"):
      self.call(f"{domain}.enable")

  def call(self, method: str, **params: Any) -> dict[str, Any]:
    """Calls a method of the protocol."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._to, json.dumps(message).encode() + b"\0")
    while (answer := self._read()).get("id") != self._number:
      self._note(answer)
    assert "error" not in answer, (method, answer["error"])
    return answer["result"]

  def run(self, code: str) -> Any:
    """The value of a JavaScript expression, which must be JSON."""
    answer = self.call(
      "Runtime.evaluate",
      expression=code,
      returnByValue=True,
      awaitPromise=True,
    )
    assert "exceptionDetails" not in answer, answer["exceptionDetails"]
    return answer["result"].get("value")

  def wait(self, code: str) -> None:
    """Waits until a JavaScript expression is true."""
    end = time.monotonic() + PATIENCE
    while not self.run(f"Boolean({code})"):
      assert time.monotonic() < end, f"{code}\n{self.complaints}"
      time.sleep(0.05)

  def open(self, url: str) -> None:
    """Opens an address."""
    self.call("Page.navigate", url=url)

  def box(self, selector: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of an element, which is scrolled to."""
    quoted = json.dumps(selector)
    self.wait(f"document.querySelector({quoted})")
    return tuple(
      self.run(
        f"""(() => {{
          const element = document.querySelector({quoted});
          element.scrollIntoView({{block: "center"}});
          const box = element.getBoundingClientRect();
          return [box.left, box.top, box.width, box.height];
        }})()"""
      )
    )

  def drag(self, selector: str, points: Sequence[tuple[float, float]]) -> None:
    """Moves the pressed mouse over an element, in fractions of its sides."""
    left, top, width, height = self.box(selector)
    for kind, (x, y) in (
      ("mousePressed", points[0]),
      *(("mouseMoved", point) for point in points[1:]),
      ("mouseReleased", points[-1]),
    ):
      self.call(
        "Input.dispatchMouseEvent",
        type=kind,
        x=left + x * width,
        y=top + y * height,
        button="left",
        buttons=int(kind != "mouseReleased"),
        clickCount=1,
      )

  def click(self, selector: str) -> None:
    """Clicks the middle of an element."""
    self.drag(selector, [(0.5, 0.5)])

  def choose_file(self, selector: str, path: pathlib.Path) -> None:
    """Chooses a file in an input element."""
    root = self.call("DOM.getDocument")["root"]["nodeId"]
    found = self.call("DOM.querySelector", nodeId=root, selector=selector)
    self.call(
      "DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(path)]
    )

  def picture(self) -> bytes:
    """The whole page as a PNG file."""
    taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
    return base64.b64decode(taken["data"])

  def close_browser(self) -> None:
    """Ends the browser."""
    self._session = ""
    self.call("Browser.close")

  def _read(self) -> dict[str, Any]:
    while b"\0" not in self._left:
      ready, _, _ = select.select([self._from], [], [], PATIENCE)
      part = os.read(self._from, 1 << 20) if ready else b""
      assert part, "Chromium has ended or hangs"
      self._left += part
    message, _, self._left = self._left.partition(b"\0")
    return json.loads(message)

  def _note(self, event: dict[str, Any]) -> None:
    params = event.get("params", {})
    match event.get("method"):
      case "Network.requestWillBeSent":
        self.urls.append(params["request"]["url"])
      case "Runtime.exceptionThrown":
        self.complaints.append(json.dumps(params))
      case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
        self.complaints.append(json.dumps(params))


@contextlib.contextmanager
def browse(
  program: str, profile: pathlib.Path, *, width: int = 1200, height: int = 900
) -> Iterator[Page]:
  """Starts a browser, and ends it.

  Args:
    program: of `find`.
    profile: folder of the browser's files.
    width: width of the window, in pixels.
    height: height of the window, in pixels.
  """
  options = [
    "--headless=new",
    "--remote-debugging-pipe",
    f"--user-data-dir={profile}",
    f"--window-size={width},{height}",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    # Chromium's sandbox does not run as root, as tests do in containers.
    "--no-sandbox",
  ]
  # Chromium reads messages from 3 and writes them to 4.
  redirect = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null'
  with subprocess.Popen(
    ["/bin/sh", "-c", redirect, "sh", program, *options],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
  ) as process:
    try:
      page = Page(process.stdin.fileno(), process.stdout.fileno())
      yield page
      page.close_browser()
      process.wait(PATIENCE)
    finally:
      process.kill()
