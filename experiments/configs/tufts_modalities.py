"""Thermal, near infrared and sketched faces of the Tufts Face Database.

  python -m experiments.train \\
      --config=experiments/configs/tufts_modalities.py \\
      --config.data.manual_dir=DIR --workdir=runs/tufts

DIR contains folders of the unpacked archives, such as TD_RGB_E_Set1 and
TD_IR_E_Set1 (docs/data.md). Pictures in visible light are canonical; a
mechanism is a camera, or somebody's pencil. People of the test part are never
seen in training. The university gives the pictures on request only, and nobody
may pass them on, so nothing was measured.

Modes as in mnist.py: no mode is 48x48 pixels, for a CPU; `full` is 64x64 pixels
and larger networks, for an accelerator; `smoke` is a few steps of tiny
networks, for tests.
"""

import ml_collections

from experiments.configs.sections import faces


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """Tufts' modalities; mode is embedded, full or smoke."""
  c = faces.few_people(mode)
  c.data.update(
    name="tufts_faces",
    groups="thermal,near_infrared,sketch",
    image_size=64 if mode == "full" else 48,
  )
  c.experts.count = 3
  c.attributes.names = c.data.groups
  if mode == "embedded":
    c.train.steps = 2_000
  return c.lock()
