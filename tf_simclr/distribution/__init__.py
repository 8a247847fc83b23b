"""Replicas and workers: collectives, strategies, clusters, their rendezvous, preemption.

Imports `config`, `files` and `terminal`.
"""
