"""Work before training: conversion of folders to record files, and previews of a run's views.

Imports everything below `report` except suites.
"""
