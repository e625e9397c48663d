"""Experts and discriminators by the names that configs give them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from icm_jax import types
from icm_jax.models import network
from icm_jax.models.discriminator import (
  ConvDiscriminator,
  PatchDiscriminator,
  PatchGlobalDiscriminator,
)
from icm_jax.models.expert import ConvExpert
from icm_jax.models.residual import DilatedExpert, UNetExpert

EXPERTS = {
  "conv": ConvExpert,
  "dilated": DilatedExpert,
  "unet": UNetExpert,
  "masked_unet": functools.partial(UNetExpert, masked=True),
}
DISCRIMINATORS = {
  "conv": ConvDiscriminator,
  "conv_centred": functools.partial(ConvDiscriminator, centred=True),
  "patch": PatchDiscriminator,
  "patch_global": PatchGlobalDiscriminator,
}


def make_expert(
  name: str,
  shape_HWC: tuple[int, int, int],
  *,
  compute_dtype: str = "float32",
  **fields: Any,
) -> types.Network:
  """Makes an expert by its name.

  Args:
    name: a key of `EXPERTS`.
    shape_HWC: shape of one image.
    compute_dtype: dtype of the computation, see `from_linen`.
    **fields: attributes of the module.

  Raises:
    InputError: the name is unknown; lists the known ones.
  """
  return network.from_linen(
    _look_up(EXPERTS, "expert", name)(**fields),
    shape_HWC,
    compute_dtype=compute_dtype,
  )


def make_discriminator(
  name: str,
  shape_HWC: tuple[int, int, int],
  *,
  compute_dtype: str = "float32",
  **fields: Any,
) -> types.Network:
  """Makes a discriminator by its name.

  Args:
    name: a key of `DISCRIMINATORS`.
    shape_HWC: shape of one image.
    compute_dtype: dtype of the computation, see `from_linen`.
    **fields: attributes of the module.

  Raises:
    InputError: the name is unknown; lists the known ones.
  """
  module = _look_up(DISCRIMINATORS, "discriminator", name)(**fields)
  return network.from_linen(module, shape_HWC, compute_dtype=compute_dtype)


def _look_up(known: Mapping[str, Any], what: str, name: str) -> Any:
  if name not in known:
    raise types.InputError(
      f"Unknown {what} {name!r}; known: {', '.join(known)}."
    )
  return known[name]
