"""Independent causal mechanisms in JAX: experts that compete without labels.

`__all__` of these packages lists the public names:

  competition  the update, its state and its parts; imports jax, flax, optax and
               chex only
  kernels      the switch between compiled and XLA's convolutions
  models       experts and discriminators, in Flax; `Stack` for your own
  mechanisms   functions that distort images
  rim          recurrent independent mechanisms: the cell, and networks
  data         data sets, and batches of them
  evaluation   measures of what experts have learned
  training     runs from a config, with checkpoints
  learned      what a run has learned, put to use
  viz          figures and pages

`__all__` of the last five lists modules, which are imported one by one, such as
`from icm_jax.data import problem`. `load` opens a run. Everything else may
change from one version to the next.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from icm_jax.learned import loading

__version__ = "0.1.0"

__all__ = (
  "competition",
  "data",
  "evaluation",
  "kernels",
  "learned",
  "mechanisms",
  "models",
  "rim",
  "training",
  "viz",
)


def load(
  workdir: str | os.PathLike[str], *, steps: int | None = None
) -> loading.Learned:
  """Opens a run of images, to restore others with what it has learned.

  It is `learned.loading.load`, which is imported here at the first call: a loop
  that only takes updates has no use for what reads a run.

  Args:
    workdir: folder of the run; its data set is not needed.
    steps: completed updates of the checkpoint; None is the newest one.

  Raises:
    InputError: the folder holds no run of images, or no such checkpoint.
  """
  from icm_jax.learned import loading

  return loading.load(workdir, steps=steps)
