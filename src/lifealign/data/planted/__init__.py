"""The embedded suite of tasks, with rules that score answers."""
