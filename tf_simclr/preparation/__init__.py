"""Work before training: a folder becomes record files, a picture shows the views of a run.

Imports everything below `report` but no suite.
"""
