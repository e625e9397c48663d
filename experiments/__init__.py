"""Programs; see README.md."""

from experiments import interrupt

interrupt.during_imports()
