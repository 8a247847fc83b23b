"""Evaluation of one network on one data set after the other: transfer and robustness.

Imports `evaluation` and everything below it.
"""
