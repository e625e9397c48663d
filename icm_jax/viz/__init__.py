"""Figures and pages of runs, sweeps and data sets.

Modules are imported one by one: the package alone does not import Matplotlib.
"""

__all__ = ("charts", "contact_sheet", "report", "sweep")
