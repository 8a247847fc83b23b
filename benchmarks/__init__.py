"""Measurements named in the docs."""
