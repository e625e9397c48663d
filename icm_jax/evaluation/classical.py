"""Classical image processing as a baseline, which is told the mechanism.

The tools need no training, and know more than experts do: which mechanism
acted, its blur, its blocks, or the pixels that it hid. OpenCV provides them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from icm_jax import mechanisms as mechanisms_lib
from icm_jax import types
from icm_jax.evaluation.detectors import packages
from icm_jax.mechanisms import digits

try:
  import cv2
except ImportError:  # The extra `faces` is not installed.
  cv2 = None  # type: ignore[assignment]  # `check_installed` looks for it.

# Steps of the Richardson-Lucy deconvolution; more steps amplify noise.
_DECONVOLUTIONS = 30


def check_installed() -> None:
  """Checks that OpenCV is installed.

  Raises:
    InputError: OpenCV is not installed.
  """
  if cv2 is None:
    raise types.InputError(
      "Classical tools need opencv-python-headless, which is not installed; "
      f"run: {packages.INSTRUCTIONS}"
    )


def restore(
  mechanism: mechanisms_lib.Mechanism, x_BHWC: np.ndarray
) -> np.ndarray:
  """Undoes a mechanism by a classical tool.

  Noise: non-local means. Low light: contrast stretched to the full range, then
  non-local means. Backlight: adaptive histogram equalisation (CLAHE) of
  lightness. Inversion and shift: their inverse. Colour cast: grey world. Blurs:
  Richardson-Lucy deconvolution. Blocks: cubic interpolation. Coverings:
  inpainting. There is no tool for the corruptions of MNIST-C, whose images stay
  as they are.

  Args:
    mechanism: one of `mechanisms.by_names`, with its parameters set.
    x_BHWC: float32 in [0, 1], distorted by the mechanism.

  Returns:
    float32 in [0, 1], same shape.

  Raises:
    InputError: OpenCV is not installed.
  """
  check_installed()
  tool = _TOOLS.get(mechanisms_lib.family(mechanism))
  y_BHWC = tool(mechanism, x_BHWC) if tool else x_BHWC
  return np.clip(y_BHWC, 0.0, 1.0).astype(np.float32)


def _denoise(x_BHWC: np.ndarray, stddev: float) -> np.ndarray:
  strength = 255 * stddev
  if x_BHWC.shape[-1] == 1:
    return _on_bytes(lambda x: cv2.fastNlMeansDenoising(x, h=strength), x_BHWC)
  return _on_bytes(
    lambda x: cv2.fastNlMeansDenoisingColored(x, h=strength, hColor=strength),
    x_BHWC,
  )


def _noise(mechanism, x_BHWC):
  stddev = mechanisms_lib.parameters_of(mechanism)["stddev"]
  return _denoise(x_BHWC, stddev)


def _low_light(mechanism, x_BHWC):
  # The brightest pixels of a face are nearly white, except a few with noise.
  white_B111 = np.quantile(x_BHWC, 0.98, axis=(1, 2, 3), keepdims=True)
  gain_B111 = 1.0 / np.maximum(white_B111, 1 / 255)
  stddev = mechanisms_lib.parameters_of(mechanism)["stddev"]
  bright_BHWC = np.clip(x_BHWC * gain_B111, 0.0, 1.0)
  return _denoise(bright_BHWC, stddev * float(gain_B111.mean()))


def _backlight(mechanism, x_BHWC):
  del mechanism
  clahe = cv2.createCLAHE(clipLimit=8.0, tileGridSize=(4, 4))

  def equalise(x_HWC):
    if x_HWC.shape[-1] == 1:
      return clahe.apply(x_HWC)
    lab_HWC = cv2.cvtColor(x_HWC, cv2.COLOR_RGB2LAB)
    lab_HWC[..., 0] = clahe.apply(np.ascontiguousarray(lab_HWC[..., 0]))
    return cv2.cvtColor(lab_HWC, cv2.COLOR_LAB2RGB)

  return _on_bytes(equalise, x_BHWC)


def _colour_cast(mechanism, x_BHWC):
  del mechanism
  mean_B11C = x_BHWC.mean(axis=(1, 2), keepdims=True)
  return x_BHWC * (0.5 / np.maximum(mean_B11C, 1 / 255))


def _invert(mechanism, x_BHWC):
  del mechanism
  return 1.0 - x_BHWC


def _shift(mechanism, x_BHWC):
  chosen = mechanisms_lib.parameters_of(mechanism)
  back = chosen | {"up": -chosen["up"], "right": -chosen["right"]}
  return np.asarray(
    jax.vmap(lambda x_HWC: digits.shift(None, x_HWC, **back))(x_BHWC)
  )


def _deconvolve(mechanism, x_BHWC):
  # The blurs are symmetric, so that the mechanism is its own adjoint.
  blur = jax.jit(jax.vmap(lambda x_HWC: mechanism(None, x_HWC)))
  y_BHWC = x_BHWC
  for _ in range(_DECONVOLUTIONS):
    ratio_BHWC = x_BHWC / np.maximum(blur(y_BHWC), 1e-3)
    # Ratios may exceed 1, but mechanisms clip their output to 1.
    y_BHWC = y_BHWC * 4 * np.asarray(blur(ratio_BHWC / 4))
  return y_BHWC


def _interpolate(mechanism, x_BHWC):
  blocks = mechanisms_lib.parameters_of(mechanism)["blocks"]

  def smooth(x_HWC):
    size = x_HWC.shape[1::-1]
    small = cv2.resize(x_HWC, (blocks, blocks), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)

  return _on_bytes(smooth, x_BHWC)


def _inpaint(mechanism, x_BHWC):
  hidden_HW = mechanisms_lib.covered(mechanism, x_BHWC.shape[1:3])
  hidden_HW = hidden_HW.astype(np.uint8)
  return _on_bytes(
    lambda x_HWC: cv2.inpaint(x_HWC, hidden_HW, 3, cv2.INPAINT_TELEA), x_BHWC
  )


def _on_bytes(
  function: Callable[[np.ndarray], np.ndarray], x_BHWC: np.ndarray
) -> np.ndarray:
  """Applies a function of uint8 images [H, W, C] to every image of a batch.

  OpenCV drops the axis of a single channel, which is restored here.
  """
  bytes_BHWC = np.round(255 * x_BHWC).astype(np.uint8)
  out_BHWC = [function(x_HWC).reshape(x_HWC.shape) for x_HWC in bytes_BHWC]
  return np.stack(out_BHWC) / np.float32(255)


# Tools by the family of the mechanism: (mechanism, x_BHWC) -> x_BHWC.
_TOOLS: Mapping[str, Callable[[Any, np.ndarray], np.ndarray]] = {
  "shift": _shift,
  "noise": _noise,
  "invert": _invert,
  "low_light": _low_light,
  "backlight": _backlight,
  "colour_cast": _colour_cast,
  "defocus": _deconvolve,
  "motion_blur": _deconvolve,
  "pixelate": _interpolate,
  "dark_glasses": _inpaint,
  "face_mask": _inpaint,
  "hat_band": _inpaint,
  "hand": _inpaint,
}
