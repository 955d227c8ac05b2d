"""The commands, one module for each kind; `cli` puts them together. Each parses, calls one function and answers.

Only typer is imported at start, so that ``--help`` answers at once; a command imports what it needs when it runs.
"""
