"""HTML, plots and image grids, from values that are given.

Imports `metrics` and everything below it; reads no file of a run.
"""
