"""Answers rated by people: the questions, the ratings on disk, the page and the summary."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that no other machine can reach."""
