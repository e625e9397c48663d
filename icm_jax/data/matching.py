"""Canonical images that are alike transformed ones in all but the mechanism.

Where the sides of a problem differ by more than mechanisms, the discriminator
learns that difference first: most people with glasses or a beard are men, and
most without are women. Canonical images are then drawn so that chosen labels
are as frequent as among transformed images. The step never sees a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from icm_jax import types
from icm_jax.data import roles


def canonical_share(
  matched: Mapping[str, str],
  columns: Mapping[str, np.ndarray],
  groups: Sequence[np.ndarray],
  canonical_ids: np.ndarray,
) -> np.ndarray:
  """Returns `probabilities` for labels that are given as rules.

  Args:
    matched: rules by name (`roles.Roles`); what they hold for is matched.
    columns: [N] arrays by name.
    groups: ids of the transformed images of each group.
    canonical_ids: ids of the canonical images.

  Raises:
    InputError: there is no group; a rule cannot be read; or see
      `probabilities`.
  """
  if not groups:
    raise types.InputError(
      f"--config.data.matched={','.join(matched)} needs groups as mechanisms: "
      "image mechanisms act on images like the canonical ones. Leave it empty."
    )
  num_images = len(next(iter(columns.values())))
  label_LN = [
    roles.matches(rule, columns, num_images) for rule in matched.values()
  ]
  return probabilities(
    np.stack(label_LN, axis=1), groups, canonical_ids, list(matched)
  )


def probabilities(
  label_NL: np.ndarray,
  groups: Sequence[np.ndarray],
  canonical_ids: np.ndarray,
  names: Sequence[str],
) -> np.ndarray:
  """Returns probabilities with which canonical images are drawn.

  Every combination of labels becomes as frequent on the canonical side as on
  the transformed one, where all groups are equally frequent. Images with the
  same combination stay equally likely, so that none is lost unless no
  transformed image is like it.

  Args:
    label_NL: bool, L labels of all images.
    groups: ids of the transformed images of each group.
    canonical_ids: ids of the canonical images.
    names: names of the L labels, for messages.

  Returns:
    float64, one for each of `canonical_ids`; they sum to 1.

  Raises:
    InputError: transformed images have a combination of labels that no
      canonical image has.
  """
  number_N = label_NL @ (1 << np.arange(label_NL.shape[1]))
  count = 1 << label_NL.shape[1]

  def shares(ids):
    return np.bincount(number_N[ids], minlength=count) / len(ids)

  wanted = np.mean([shares(ids) for ids in groups], axis=0)
  there = shares(canonical_ids)
  if missing := np.flatnonzero((wanted > 0) & (there == 0)).tolist():
    labels = ", ".join(
      f"{name}={missing[0] >> place & 1}" for place, name in enumerate(names)
    )
    raise types.InputError(
      f"No canonical image has {labels}, which transformed images have, so "
      "that the sides cannot be made alike. Name fewer labels in "
      "--config.data.matched, or add canonical images."
    )
  ratio = np.divide(wanted, there, out=np.zeros_like(wanted), where=there > 0)
  weight = ratio[number_N[canonical_ids]]
  return weight / weight.sum()
