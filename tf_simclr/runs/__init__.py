"""The directory of a run: settings, data, checkpoints, results, its owner.

Imports `models`, `data`, `metrics` and everything below them.
"""
