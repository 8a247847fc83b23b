"""Measurements that are named in the docs."""
