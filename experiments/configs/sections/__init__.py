"""Sections of configs of image runs: what an experiment is put together from.

A config starts as `paper.experiment(mode)`, which has every key, or as
`faces.photographs(mode)`, and adds what it is about.
"""
