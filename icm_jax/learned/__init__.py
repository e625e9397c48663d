"""What a run has learned, put to use.

`loading` opens a run for arrays of images, `picture_files` restores files with
it, `examine` shows it one picture, and `export` and `model_card` write it for
programs without this package. A module is imported when it is named; `loading`
and `export` bring nothing that reads data.
"""

__all__ = ("examine", "export", "loading", "model_card", "picture_files")
