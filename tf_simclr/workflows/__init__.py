"""Training commands: one run, the whole method, and accuracy against the number of labels.

Imports everything else in the library.
"""
