"""Frozen features: linear probes, nearest neighbours, feature files and maps.

Imports `training` and everything below it.
"""
