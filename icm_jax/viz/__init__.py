"""Figures and pages of runs, sweeps and data sets.

A module is imported when it is named: this package alone does not bring
Matplotlib.
"""

__all__ = ("charts", "contact_sheet", "report", "sweep")
