"""Figures and pages of runs, sweeps, data sets and pictures.

Modules are imported one by one: the package alone does not import Matplotlib.
"""

__all__ = (
  "charts",
  "contact_sheet",
  "examined",
  "report",
  "robustness",
  "sweep",
)
