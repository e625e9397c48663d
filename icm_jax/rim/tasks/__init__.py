"""Sequence tasks, each with test variants harder than its training variant."""

from icm_jax.rim.tasks.adding import make_adding
from icm_jax.rim.tasks.balls import make_balls
from icm_jax.rim.tasks.base import MEASURED, Sequences, Task
from icm_jax.rim.tasks.copying import make_copying
from icm_jax.rim.tasks.digits import make_digits

__all__ = (
  "MEASURED",
  "Sequences",
  "Task",
  "make_adding",
  "make_balls",
  "make_copying",
  "make_digits",
)
