"""Shows what a run has learned, in a browser.

  python -m experiments.demo --workdir=runs/mnist

Draw a digit, or load a picture; choose mechanisms and their strength, up to
three in a row. The page shows what every expert makes of it, the
discriminator's scores, the winner, whether the gate leaves the picture alone,
and the chain of experts that undoes the mechanisms. For a run on faces it also
shows the faces that a detector finds before and after, if the extra `faces` is
installed.

The page needs: pip install "icm-jax[demo]". It can be reached from this machine
only, unless --host says otherwise, and takes nothing from the network.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import socket
from collections.abc import Callable

import numpy as np
from absl import flags

import icm_jax
from experiments import console, interrupt, launch
from icm_jax import types
from icm_jax.evaluation.detectors import centerface
from icm_jax.learned import examine, loading
from icm_jax.viz import examined, html

NONE = "nothing"
DRAW = "Draw a digit, or load a picture."
LOAD = "Load a picture."
SLOTS = ("1st mechanism", "2nd mechanism", "3rd mechanism")
# The margin in logits where a run has measured none. In runs/mnist, seed 0, one
# clean digit in a hundred gains more than 0.11 logits, and one distorted digit
# in a hundred less than 1.3, whatever the mechanism.
_MARGIN = 0.5
# A drawing is white on black, as the digits are.
_PAD = """
<div class="drawing">
  <canvas aria-label="Draw here" width="280" height="280"
  ${draws ? '' : 'hidden'}></canvas>
  <div class="buttons">
  <button type="button" ${draws ? '' : 'hidden'}>Clear</button>
  <label>Load a picture<input type="file" accept="image/*"></label></div>
</div>
"""
_PAD_STYLE = """
canvas { display: block; background: #000; border-radius: .4rem;
  touch-action: none; cursor: crosshair; margin-bottom: .6rem; }
[hidden] { display: none !important; }
.buttons { flex-wrap: wrap; display: flex; gap: .6rem; }
.buttons button, .buttons label { border-radius: .4rem; cursor: pointer;
  border: 1px solid var(--border-color-primary); padding: .3rem .8rem;
  background: var(--button-secondary-background-fill); font-size: .9rem; }
.buttons label:focus-within { outline: 2px solid currentcolor; }
.buttons input { position: absolute; width: 1px; opacity: 0; }
"""
# The ends of a slider from 0 to 1 need no words.
_STYLE = """
.min_value, .max_value { display: none; }
"""
# A value is a kind, "drawing" or "file", and a data URL after a space. Gradio
# draws the pad a moment before it listens to it; what comes until then waits.
_PAD_CODE = """
const canvas = element.querySelector('canvas');
const pen = canvas.getContext('2d');
let waits = false;
const send = (text) => {
  props.value = text;
  waits = !window.icmListens;
  if (!waits) trigger('change');
};
document.addEventListener('icm-listens', () => {
  if (waits) trigger('change');
  waits = false;
});
const place = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
const clear = () => pen.clearRect(0, 0, canvas.width, canvas.height);
let last = null;
canvas.addEventListener('pointerdown', (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = place(event);
  draw(event);
});
const draw = (event) => {
  if (!last) return;
  const next = place(event);
  Object.assign(pen, {strokeStyle: '#fff', lineWidth: 22, lineCap: 'round'});
  pen.beginPath();
  pen.moveTo(...last);
  pen.lineTo(...next);
  pen.stroke();
  last = next;
};
canvas.addEventListener('pointermove', draw);
canvas.addEventListener('lostpointercapture', () => {
  last = null;
  send('drawing ' + canvas.toDataURL());
});
element.querySelector('button').addEventListener('click', () => {
  clear();
  send('');
});
const file = element.querySelector('input');
file.addEventListener('change', () => {
  const reader = new FileReader();
  reader.onload = () => { clear(); send('file ' + reader.result); };
  if (file.files.length) reader.readAsDataURL(file.files[0]);
  file.value = '';
});
"""
_LISTENS = """() => {
  window.icmListens = true;
  document.dispatchEvent(new Event('icm-listens'));
}"""


def check_installed() -> None:
  """Makes sure that the page can be made.

  Raises:
    InputError: the package gradio is not installed.
  """
  if importlib.util.find_spec("gradio") is None:
    raise types.InputError(
      'The demo needs gradio; run: pip install "icm-jax[demo]"'
    )


def listen(host: str, port: int) -> socket.socket:
  """A socket of the server.

  Raises:
    InputError: the address is in use, or none of this machine.
  """
  try:
    return socket.create_server((host, port))
  except OSError as error:
    raise types.InputError(
      f"--host={host} --port={port} cannot be used ({error.strerror}); choose "
      "another, or --port=0 for any that is free."
    ) from error


class Page:
  """What the page computes.

  Attributes:
    examiner: the run.
    draws: whether there is a pad to draw on, which faces have no use for.
    hello: what the page says before there is a picture.
  """

  def __init__(self, examiner: examine.Examiner):
    self.examiner = examiner
    self.draws = not examine.shows_faces(examiner.learned)
    self.hello = DRAW if self.draws else LOAD

  def load(self, value: str | None):
    """The picture of the pad: uint8 [H, W, C]; None if there is none.

    Args:
      value: what the pad sends.

    Raises:
      InputError: the file is no picture that can be used.
    """
    kind, _, url = (value or "").partition(" ")
    if not kind:
      return None
    data = base64.b64decode(url.partition(",")[2])
    if kind == "drawing":
      return self.examiner.read_drawing(data)
    return self.examiner.read(data)

  def show(self, image_HWC, margin: float, *choices) -> str:
    """Markup of what the run makes of a picture.

    Args:
      image_HWC: of `load`.
      margin: of the gate, in logits.
      choices: a name and a strength for each mechanism, in turn.
    """
    if image_HWC is None:
      return examined.message(self.hello)
    steps = [
      examine.Step(name, strength)
      for name, strength in zip(choices[::2], choices[1::2], strict=True)
      if name != NONE
    ]
    return examined.draw(
      self.examiner.examine(image_HWC, steps, margin=margin or 0.0),
      self.examiner.learned.mechanism_of,
    )


def examiner_of(learned: loading.Learned) -> tuple[examine.Examiner, str]:
  """Makes an examiner, with a detector if the run's pictures are faces.

  Returns:
    The examiner, and what is missing for a detector; "" if nothing is.
  """
  detect, missing = None, ""
  if examine.shows_faces(learned):
    try:
      detect = centerface.load()
    except types.InputError as error:
      missing = str(error)
  return examine.Examiner(learned, detect=detect), missing


def build(examiner: examine.Examiner, *, margin: float, note: str = ""):
  """The page, as Gradio's blocks.

  Args:
    examiner: the run.
    margin: of the gate at the start, in logits.
    note: words below the title.
  """
  import gradio

  page, learned = Page(examiner), examiner.learned

  def load(value, *rest):
    try:
      image_HWC = page.load(value)
    except types.InputError as error:
      return None, examined.message(str(error))
    return image_HWC, page.show(image_HWC, *rest)

  title = f"{learned.workdir}, step {learned.steps}"
  with gradio.Blocks(
    title=f"icm-jax: {title}", analytics_enabled=False
  ) as blocks:
    gradio.HTML(f"<h2>{html.text(title)}</h2><p>{html.text(note)}</p>")
    image = gradio.State(None)
    with gradio.Row():
      with gradio.Column(scale=1, min_width=320):
        pad = gradio.HTML(
          html_template=_PAD,
          css_template=_PAD_STYLE,
          js_on_load=_PAD_CODE,
          draws=page.draws,
          apply_default_css=False,
        )
        inputs = []
        for number, words in enumerate(SLOTS if examiner.mechanisms else ()):
          with gradio.Row():
            inputs += [
              gradio.Dropdown(
                [NONE, *examiner.mechanisms],
                value=NONE,
                label=words,
                elem_id=f"mechanism-{number}",
                min_width=140,
              ),
              gradio.Slider(
                0,
                1,
                value=1,
                step=0.05,
                label="strength",
                min_width=140,
                buttons=[],
              ),
            ]
        gate = gradio.Number(
          round(margin, 3), label="margin of the gate, in logits", step=0.1
        )
      with gradio.Column(scale=3, min_width=320):
        shown = gradio.HTML(
          examined.message(page.hello), apply_default_css=False
        )
    choices = [gate, *inputs]
    quick = dict(show_progress="hidden", trigger_mode="always_last")
    pad.change(load, [pad, *choices], [image, shown], **quick)
    blocks.load(None, js=_LISTENS)
    for one in choices:
      one.change(page.show, [image, *choices], shown, **quick)
  return blocks


def warm_up(examiner: examine.Examiner) -> None:
  """Compiles what the first picture would wait for."""
  black_HWC = np.zeros(examiner.learned.shape_HWC, np.uint8)
  examiner.examine(black_HWC, [examine.Step(n) for n in examiner.mechanisms])
  examiner.examine(black_HWC, margin=-np.inf)


def serve(blocks, sock: socket.socket, say: Callable[[str], None]) -> None:
  """Serves the page until it is interrupted.

  Args:
    blocks: of `build`.
    sock: of `listen`.
    say: is told where the page is.
  """
  import fastapi
  import gradio
  import uvicorn

  # FastAPI's pages about itself are drawn by scripts of the network.
  app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
  fonts = dict(font=["system-ui", "sans-serif"], font_mono=["monospace"])
  app = gradio.mount_gradio_app(
    app,
    blocks,
    "/",
    theme=gradio.themes.Default(**fonts),
    css=examined.STYLE + _STYLE,
    footer_links=[],
    run_history=False,
    ssr_mode=False,
    mcp_server=False,
    pwa=False,
  )
  # Pages that are still open keep connections, for which nothing has to wait.
  config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
  host, port = sock.getsockname()

  class Server(uvicorn.Server):
    async def startup(self, sockets=None):
      await super().startup(sockets)
      # Only now does an interrupt end the server without a complaint.
      say(f"open http://{host}:{port}")

  server = Server(config)
  interrupt.leave()
  with contextlib.suppress(KeyboardInterrupt):
    server.run(sockets=[sock])


def define_flags() -> None:
  """Defines the flags of the program."""
  launch.define_workdir()
  flags.DEFINE_integer("steps", None, "Checkpoint; default: the newest one.")
  flags.DEFINE_string("host", "127.0.0.1", "Address; 0.0.0.0 is every one.")
  flags.DEFINE_integer(
    "port",
    7860,
    "Port; 0 is any that is free.",
    lower_bound=0,
    upper_bound=65_535,
  )


def main() -> None:
  f = flags.FLAGS
  check_installed()
  learned = icm_jax.load(launch.workdir(), steps=f.steps)
  try:
    margin = learned.margin
  except types.InputError:
    margin = _MARGIN
  examiner, note = examiner_of(learned)
  with listen(f.host, f.port) as sock:
    warm_up(examiner)
    blocks = build(examiner, margin=margin, note=note)
    serve(blocks, sock, console.reporter().say)


if __name__ == "__main__":
  define_flags()
  launch.run(main)
