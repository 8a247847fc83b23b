"""Frozen features, and what is done with them: linear probes, nearest neighbours, feature files, maps.

Imports `training` and everything below it.
"""
