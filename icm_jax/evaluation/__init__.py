"""What experts have learned: measures that training never sees.

Modules are imported one by one: the package alone imports neither SciPy nor the
readers of data, and OpenCV and onnxruntime are imported where they are used.
"""

__all__ = (
  "attributes",
  "augmix",
  "chains",
  "classical",
  "classifier",
  "detection",
  "detectors",
  "mnist_c",
  "restoration",
  "specialisation",
  "test_time",
  "transfer",
)
