"""Rows of any source become tasks; answers of a model; the embedded suite."""
