"""Bright lines in front of an image."""

from __future__ import annotations

from typing import Any

import numpy as np

# Vertical distance at which a line ends, in pixels.
_REACH = 2.3
# Rows by which a zigzag may fall from its start to its end.
RISES = range(-5, 5)


def brightness(distance: Any, xp: Any = np) -> Any:
  """Brightness of a pixel in a line.

  Args:
    distance: vertical distance from the middle of the line, in pixels.
    xp: `numpy`, or `jax.numpy` for distances that depend on chance.

  Returns:
    Values in [0, 1], same shape.
  """
  # The logarithm is below 0 long before it is that of 0.
  part = xp.clip(xp.abs(distance) / _REACH, 0.0, 1 - 1e-6)
  return xp.clip(1 + xp.log(1 - part), 0.0, 1.0)


def zigzag(
  height: int, width: int, *, rise: int, period: float, amplitude: float
) -> np.ndarray:
  """A zigzag line from the third column to the third last one.

  Args:
    height: height of the image.
    width: width of the image; where it has no room for a corner there is no
      line.
    rise: rows by which the line falls from its start to its end.
    period: distance of an upper corner from the next lower one, in pixels.
    amplitude: distance of the corners from the middle of the zigzag, in pixels.

  Returns:
    [2 * height - 1, width]; the line starts in the middle row.
  """
  first, last = 2, width - 3
  row_Y = np.arange(2 * height - 1) - (height - 1)
  column_W = np.arange(width)
  line_YW = np.zeros((len(row_Y), width))
  if last - first < period / 2:
    return line_YW
  slope = np.arctan2(rise, last - first)
  length = (last - first) / np.cos(slope)
  # Corners as complex numbers, along the line and across it, before it is
  # turned to its slope.
  along = period * np.arange(int((length - period / 2) // period) + 1)
  along += period / 2
  across = amplitude * (-1.0) ** np.arange(len(along))
  over = length % period
  if over:
    # So the benchmark ends the line, near its middle.
    along = np.append(along, length)
    across = np.append(across, across[-1] / (2 * over))
  point = (np.append(0, along) + 1j * np.append(0, across)) * np.exp(1j * slope)
  for start, end in zip(point[:-1], point[1:], strict=True):
    tilt = (end.imag - start.imag) / (end.real - start.real)
    middle_W = start.imag + tilt * (column_W - first - start.real)
    inside_W = column_W >= np.floor(first + start.real)
    inside_W &= column_W < np.ceil(first + end.real)
    line_YW += inside_W * brightness(row_Y[:, None] - middle_W)
  return line_YW
