"""Weights and networks of other programs: released weights, PyTorch, SavedModels.

Imports `models`, `runs` and everything below them.
"""
