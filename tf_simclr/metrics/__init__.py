"""Scores of a classifier, calibration, confusion matrices.

Imports `config` and `files`.
"""
