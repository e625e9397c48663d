"""The demo: what its page computes, and the page in a browser."""

import base64
import dataclasses
import importlib.util
import io
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from experiments import demo
from icm_jax import types
from icm_jax.learned import examine
from tests import chromium, toy_run

ROOT = pathlib.Path(__file__).parent.parent
# The program with the toy run in place of a folder's. It must not reach for
# anything but this machine.
_PROGRAM = """
import os, sys

def hook(event, arguments):
  if event == "socket.connect":
    host = arguments[1]
  elif event == "socket.getaddrinfo":
    host = arguments[0]
  else:
    return
  host = host[0] if isinstance(host, tuple) else host
  if host not in ("127.0.0.1", "localhost", None):
    os.write(2, f"{event} {host}\\n".encode())
    os._exit(3)

sys.addaudithook(hook)
from experiments import demo, launch
from tests import toy_run
demo.icm_jax.load = lambda workdir, steps: toy_run.learned()
demo.define_flags()
launch.run(demo.main)
"""


@pytest.fixture(scope="module")
def page():
  return demo.Page(examine.Examiner(toy_run.learned()))


def url(array):
  """An image as the data URL of a PNG file."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(array).save(buffer, format="PNG")
  return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_what_the_pad_sends_is_read(page):
  drawing = np.zeros((280, 280, 4), np.uint8)
  drawing[40:80, 40:80] = 255
  image_HWC = page.load(f"drawing {url(drawing)}")
  assert image_HWC.shape == toy_run.SHAPE_HWC
  # A drawing is moved to the middle, the picture of a file is not.
  assert image_HWC[16, 16] == 255
  image_HWC = page.load(f"file {url(drawing)}")
  assert image_HWC[16, 16] == 0
  assert page.load("") is page.load(None) is None
  with pytest.raises(types.InputError, match="not a picture"):
    page.load("file data:text/plain;base64,aGVsbG8=")


def test_choices_are_mechanisms_in_a_row(page):
  image_HWC = np.zeros(toy_run.SHAPE_HWC, np.uint8)
  image_HWC[13:19, 13:19] = 255
  assert "Draw a digit" in page.show(None, 0.5)
  shown = page.show(image_HWC, 0.5, demo.NONE, 1.0, "right", 1.0)
  assert 'data-winner="0"' in shown
  shown = page.show(image_HWC, 0.5, "right", 0.4, "invert", 1.0)
  assert 'data-winner="2"' in shown
  assert "right, 0.4" in shown
  assert "Left alone" in page.show(image_HWC, 0.5, "right", 0.0)
  # An empty field of the margin is no margin.
  assert page.show(image_HWC, None) == page.show(image_HWC, 0.0)


def test_a_run_on_faces_has_no_pad_and_names_a_missing_detector(monkeypatch):
  def refuse():
    raise types.InputError("no detector")

  monkeypatch.setattr(demo.centerface, "load", refuse)
  learned = toy_run.learned()
  assert demo.examiner_of(learned)[1] == ""
  config = learned.config.copy_and_resolve_references()
  with config.unlocked():
    config.data.name = "orl_faces"
  faces = dataclasses.replace(learned, config=config)
  examiner, missing = demo.examiner_of(faces)
  assert examiner.detect is None
  assert missing == "no detector"
  page = demo.Page(examiner)
  assert not page.draws
  assert page.show(None, 0.5) == demo.examined.message(demo.LOAD)


def test_a_missing_gradio_is_told(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(types.InputError, match=r"icm-jax\[demo\]"):
    demo.check_installed()


def test_an_address_in_use_is_told():
  with demo.listen("127.0.0.1", 0) as sock:
    port = sock.getsockname()[1]
    with pytest.raises(types.InputError, match=f"--port={port} cannot be used"):
      demo.listen("127.0.0.1", port)


def test_a_folder_without_a_run_is_told(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "experiments.demo", f"--workdir={tmp_path}"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ")


@pytest.fixture(scope="module")
def address():
  """Serves the demo of the toy run."""
  if importlib.util.find_spec("gradio") is None:
    pytest.skip("the extra demo is missing")
  with subprocess.Popen(
    [sys.executable, "-c", _PROGRAM, "--workdir=toy", "--port=0"],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      said = process.stderr.readline()
      found = re.search(r"open (http://127\.0\.0\.1:\d+)$", said)
      assert found, said + process.communicate(timeout=chromium.PATIENCE)[1]
      yield found[1]
      process.send_signal(signal.SIGINT)
      said = process.communicate(timeout=chromium.PATIENCE)[1]
      assert (process.returncode, said) == (0, "")
    finally:
      process.kill()


@pytest.fixture
def browser(address, tmp_path):
  """The page in a browser."""
  program = chromium.find()
  if program is None:
    pytest.skip("there is no Chromium; run: apt-get install chromium")
  with chromium.browse(program, tmp_path / "profile") as page:
    page.open(address)
    yield page
    assert page.complaints == []
    # Pictures are part of the page.
    outside = [
      url for url in page.urls if not url.startswith((address, "data:"))
    ]
    assert outside == []


def choose(browser, slot, name):
  """Chooses a mechanism."""
  browser.click(f"#mechanism-{slot} input")
  browser.click(f"[role=option][aria-label={name}]")


def test_a_drawing_is_distorted_and_the_winner_changes(browser, tmp_path):
  # Until the page has taken its place, a stroke may miss the pad.
  browser.wait("window.icmListens")
  browser.drag("canvas", [(0.4, 0.3), (0.6, 0.3), (0.6, 0.6), (0.4, 0.6)])
  browser.wait(f"document.querySelector('[data-winner=\"{toy_run.COPY}\"]')")
  assert "Left alone" in browser.run("document.body.innerText")
  choose(browser, 0, "invert")
  browser.wait("document.querySelector('[data-winner=\"2\"]')")
  assert "Expert 2 wins" in browser.run("document.body.innerText")
  choose(browser, 0, "right")
  browser.wait("document.querySelector('[data-winner=\"0\"]')")
  # A second mechanism in a row takes two experts.
  choose(browser, 1, "invert")
  browser.wait("document.querySelector('[data-winner=\"2\"]')")
  assert browser.run("document.querySelectorAll('.arrow').length") == 4

  browser.click(".drawing button")
  browser.wait("!document.querySelector('[data-winner]')")
  assert demo.DRAW in browser.run("document.body.innerText")
  bright_HW = np.full((28, 28), 255, np.uint8)
  PIL.Image.fromarray(bright_HW).save(tmp_path / "bright.png")
  browser.choose_file(".drawing input", tmp_path / "bright.png")
  browser.wait("document.querySelector('[data-winner]')")
  (tmp_path / "no.png").write_bytes(b"nothing")
  browser.choose_file(".drawing input", tmp_path / "no.png")
  browser.wait("document.body.innerText.includes('not a picture')")
