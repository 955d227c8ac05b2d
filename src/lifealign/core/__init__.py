"""Errors, configuration, files, JSON, tensors and progress, for use by every other folder."""
