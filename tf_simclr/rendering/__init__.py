"""HTML, plots and image grids from given values.

Imports `metrics` and everything below it; does not read files of a run.
"""
