"""Bright lines in front of an image."""

from __future__ import annotations

import numpy as np

# Vertical distance at which a line ends, in pixels.
_REACH = 2.3
# Rows by which a zigzag line may fall from its start to its end.
RISES = range(-5, 5)


def brightness(distance, xp):
  """Brightness at a vertical distance from the middle of a line."""
  part = xp.clip(xp.abs(distance) / _REACH, 0.0, 1 - 1e-6)
  return xp.clip(1 + xp.log(1 - part), 0.0, 1.0)


def zigzag(height, width, rise, period, amplitude):
  """A zigzag line that starts in the middle row, [2 * height - 1, width]."""
  first, last = 2, width - 3
  slope = np.arctan2(rise, last - first)
  length = (last - first) / np.cos(slope)
  along = period * np.arange(int((length - period / 2) // period) + 1)
  along += period / 2
  across = amplitude * (-1.0) ** np.arange(len(along))
  # The benchmark ends the line near its middle.
  over = length % period
  if over:
    along = np.append(along, length)
    across = np.append(across, across[-1] / (2 * over))
  point = (np.append(0, along) + 1j * np.append(0, across)) * np.exp(1j * slope)
  row_Y = np.arange(2 * height - 1) - (height - 1)
  column_W = np.arange(width)
  line_YW = np.zeros((len(row_Y), width))
  for start, end in zip(point[:-1], point[1:], strict=True):
    tilt = (end.imag - start.imag) / (end.real - start.real)
    middle_W = start.imag + tilt * (column_W - first - start.real)
    inside_W = column_W >= np.floor(first + start.real)
    inside_W &= column_W < np.ceil(first + end.real)
    line_YW += inside_W * brightness(row_Y[:, None] - middle_W, np)
  return line_YW
