"""Drift measures, one a file: what changed in the model between two points of a memory's life. Numpy only, no torch."""
