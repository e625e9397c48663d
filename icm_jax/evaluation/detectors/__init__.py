"""Detectors of faces, by name; others trained them, on photographs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from icm_jax import types
from icm_jax.evaluation import detection
from icm_jax.evaluation.detectors import centerface, mtcnn


class Kind(NamedTuple):
  """A detector that can be loaded.

  Attributes:
    title: name on pages.
    load: function that loads it; takes `least_score` by name.
    check_installed: function that raises InputError if packages are missing.
  """

  title: str
  load: Callable[..., detection.Detector]
  check_installed: Callable[[], object]


DETECTORS: dict[str, Kind] = {
  "centerface": Kind("CenterFace", centerface.load, centerface.check_installed),
  "mtcnn": Kind("MTCNN", mtcnn.load, mtcnn.check_installed),
}


def parse_names(text: str) -> list[str]:
  """Reads names of detectors, by commas.

  Raises:
    InputError: a name is unknown; names the value of the config.
  """
  names = [name.strip() for name in text.split(",")]
  for name in names:
    if name not in DETECTORS:
      raise types.InputError(
        f"--config.detection.detectors must be names out of "
        f"{', '.join(DETECTORS)}, by commas; got {text!r}."
      )
  return names
