"""The embedded suites of tasks, with rules that score answers."""
