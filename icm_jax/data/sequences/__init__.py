"""Sequences to learn from, each task with tests harder than its training."""

from icm_jax.data.sequences.adding import make_adding
from icm_jax.data.sequences.balls import make_balls
from icm_jax.data.sequences.copying import make_copying
from icm_jax.data.sequences.digits import make_digits
from icm_jax.data.sequences.task import Sequences, Task

__all__ = (
  "Sequences",
  "Task",
  "make_adding",
  "make_balls",
  "make_copying",
  "make_digits",
)
