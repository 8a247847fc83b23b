"""What the user sees while the program works, and how it ends.

Imports no TensorFlow, and of the library `config` and `files` alone.
"""
