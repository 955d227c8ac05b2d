"""Answers rated by people: what is asked, the ratings on disk, the page, and what all ratings say together."""
