"""Experts of attributes applied to faces of another data set.

Nobody has labelled what people wear in most data sets. The probe that judges
the run's own test images, trained on the run's data set alone, says in which of
the other images an attribute is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from icm_jax import types
from icm_jax.evaluation import attributes
from icm_jax.evaluation import probe as probe_lib


def evaluate(
  state: types.TrainState,
  x_NHWC: np.ndarray,
  judge: probe_lib.Judge,
  wins_EM: np.ndarray,
  *,
  margin: float,
  setup: types.Setup,
  batch_size: int,
) -> dict[str, Any]:
  """Measures whether experts remove their attributes from other images.

  Args:
    state: state of a run with M groups.
    x_NHWC: float32 in [0, 1], images of the other data set, aligned with those
      of the run.
    judge: a probe of the run's data set that knows the M groups' attributes
      first, in their order.
    wins_EM: counts on the run's own test images, which determine a group's own
      expert.
    margin: gain in score below which the gate leaves an image alone.
    setup: setup of the run.
    batch_size: number of images in one call of the experts.

  Returns:
    `images`, their number; `probe`, its accuracy on the run's own test images;
    `by_group`, see `attributes.group_change`, of the images in which the probe
    sees this group's attribute and no other group's, None if there is none; and
    `none`, see `attributes.gated_change`, of the images in which it sees none
    of them.
  """
  num_groups = wins_EM.shape[1]
  has_NM = judge.look(x_NHWC).has_NK[:, :num_groups]
  alone_N = has_NM.sum(axis=1) == 1
  rows: dict[str, dict[str, Any] | None] = {}
  for m, name in enumerate(judge.labels.names[:num_groups]):
    is_seen_N = has_NM[:, m] & alone_N
    rows[name] = None
    if is_seen_N.any():
      rows[name] = attributes.group_change(
        state,
        x_NHWC[is_seen_N],
        judge,
        attribute=m,
        own=int(wins_EM[:, m].argmax()),
        setup=setup,
        batch_size=batch_size,
      )
  none = attributes.gated_change(
    state,
    x_NHWC[~has_NM.any(axis=1)],
    judge,
    margin=margin,
    setup=setup,
    batch_size=batch_size,
  )
  return {
    "images": len(x_NHWC),
    "probe": judge.accuracy,
    "by_group": rows,
    "none": none,
  }
