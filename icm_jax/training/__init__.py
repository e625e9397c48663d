"""A run: from its config to a folder with checkpoints and a result.

`experiment` trains and evaluates by a config, `checkpoint` reads what was
saved, `setup` makes the parts of a run. A module is imported when it is named.
"""

__all__ = ("checkpoint", "experiment", "setup", "workdir")
