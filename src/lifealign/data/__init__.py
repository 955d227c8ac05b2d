"""Preference rows from any source, the tasks made of them, answer records, and the embedded suites."""
