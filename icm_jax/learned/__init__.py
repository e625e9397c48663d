"""What a run has learned, put to use.

`loading` opens a run for arrays of images. A module is imported when it is
named.
"""

__all__ = ("loading",)
