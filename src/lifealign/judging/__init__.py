"""Judging answers by models: the prompt, the calls, what a reply is worth, and what all of them say together."""
