"""What experts have learned: measures that training never sees.

A module is imported when it is named: this package alone brings neither SciPy
nor what reads data, and OpenCV and onnxruntime only where they are used.
"""

__all__ = (
  "attributes",
  "chains",
  "classical",
  "classifier",
  "detection",
  "restoration",
  "specialisation",
  "transfer",
)
