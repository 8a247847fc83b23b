"""Encoded images: their headers, limits and decoding.

Imports TensorFlow only.
"""
