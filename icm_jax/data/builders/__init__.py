"""Data sets as tensorflow-datasets builders that need no TensorFlow."""
