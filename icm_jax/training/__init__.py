"""A run: from its config to a folder with checkpoints and a result.

`image_run` trains and evaluates by a config, `build` makes the parts of a run,
and opens one without its data. A module is imported when it is named.
"""

__all__ = ("build", "checkpoint", "image_run", "run_folder", "run_result")
