"""What a run has learned, put to use.

`loading` opens a run for arrays of images, and `picture_files` restores files
with it. A module is imported when it is named; only `picture_files` brings what
reads data.
"""

__all__ = ("loading", "picture_files")
