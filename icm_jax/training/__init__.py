"""Runs, from a config to a folder with checkpoints and a result.

`image_run` trains and evaluates a config; `build` makes the parts of a run;
`saved_run` opens a run without its data. Modules are imported one by one.
"""

__all__ = (
  "build",
  "checkpoint",
  "image_run",
  "run_folder",
  "run_result",
  "saved_run",
)
