"""Errors, configuration, files, JSON, tensors, progress: what every other folder may use."""
