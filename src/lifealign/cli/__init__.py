"""The commands, one module for each kind; `app` registers them. Each command parses, calls one function and replies.

Only typer is imported at start, so that ``--help`` is fast; a command imports what it needs when it runs.
"""
