"""Answers rated by people: what is asked, the ratings on disk, the page, and what all ratings say together."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that nobody else can reach."""
