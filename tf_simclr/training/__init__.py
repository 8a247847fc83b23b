"""One run: its assembly from a configuration, its loop, its evaluation, its actions.

Imports `interop`, `tasks`, `runs` and everything below them.
"""
