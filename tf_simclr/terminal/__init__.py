"""Output while the program works, and its end.

Imports `config` and `files` of the library, and no TensorFlow unless there is an address.
"""
