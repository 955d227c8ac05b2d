"""Answers rated by people: the questions, the ratings on disk, the page and the summary."""
