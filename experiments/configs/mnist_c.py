"""Half of MNIST-C's corruptions, learned from unlabelled digits.

  python -m experiments.train --config=experiments/configs/mnist_c.py \\
      --workdir=runs/mnist_c
  python -m experiments.robustness --workdir=runs/robust

The second command puts the experts in front of a frozen classifier, and
compares them with what people use otherwise (docs/robustness.md).

The mechanisms are the eight corruptions on which a classifier of clean digits
fails most, measured on corrupted training digits. Modes as in mnist.py; images
have 28x28 pixels, as the benchmark's.
"""

import ml_collections

from experiments.configs.sections import paper, remedies
from icm_jax.mechanisms import corruptions

# Corruptions by the benchmark's names.
LEARNED = (
  "impulse_noise",
  "motion_blur",
  "brightness",
  "translate",
  "stripe",
  "fog",
  "zigzag",
  "canny_edges",
)


def get_config(mode: str = "embedded") -> ml_collections.ConfigDict:
  """Experts for eight corruptions; mode is embedded, full or smoke."""
  c = paper.experiment(mode)
  remedies.add(c, mode)
  c.data.image_size = 28
  c.mechanisms = dict(
    names=tuple(corruptions.BENCHMARK[name] for name in LEARNED)
  )
  # An expert that sees the whole digit redraws it, and may draw another digit.
  c.experts.network = "unet"
  c.experts.unet.levels = 1
  c.identity.update(by_construction=True, max_steps=0)
  if mode == "smoke":
    c.mechanisms.names = c.mechanisms.names[:3]
    # The paper's ten mechanisms need an image each.
    c.evaluation.update(examples=20, curve_examples=10, batch_size=10)
    return c.lock()
  # There are four directions in which digits are moved, and two in which they
  # are blurred: more experts than corruptions, of which none may stay idle.
  c.experts.update(count=20, features=16, decay_begin=600, half_life=500)
  c.discriminator.features = 8
  c.remedies.averages.steps = 100.0
  c.remedies.signature.weight = 4.0
  c.evaluation.examples = 2_000
  c.every.update(evaluate=250, checkpoint=250)
  c.train.update(batch_size=64, steps=1_500)
  return c.lock()
