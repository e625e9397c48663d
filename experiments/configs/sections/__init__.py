"""Sections of which configs of image runs are composed.

A config starts as `paper.experiment(mode)`, which has every key, or as
`faces.photographs(mode)`, and then changes the values of its experiment.
"""
