"""Where images come from, and how they become the batches of a step.

`sources` loads a data set or folder by name, `problem` divides it and draws
batches. A module is imported when it is named: this package alone brings
neither tensorflow-datasets nor Pillow.
"""

__all__ = ("augment", "decoded", "pictures", "problem", "roles", "sources")
