"""Data sets, and the batches that are drawn from them.

`sources` loads a data set or folder by name; `problem` divides it and draws
batches. Modules are imported one by one: the package alone imports neither
tensorflow-datasets nor Pillow.
"""

__all__ = ("augment", "decoded", "pictures", "problem", "roles", "sources")
