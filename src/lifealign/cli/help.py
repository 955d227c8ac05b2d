"""The list of commands that `lifealign --help` shows: in groups, each with one whole sentence."""

from __future__ import annotations

from typing import Any

import typer.core

GROUPS = {
    "Learn": ("check-data", "collect", "related", "learn", "run"),
    "Measure": ("evaluate", "diff", "drift", "report", "view", "card", "answers", "compare"),
    "Look back and change": ("log", "show", "tag", "rollback", "withdraw", "recover", "compose"),
    "Keep": ("verify", "repair", "backup", "restore"),
    "Use": ("generate", "serve", "export", "push"),
    "Judge and rate": ("judge", "judge-check", "annotate", "ratings"),
    "Research": ("study", "study-report", "strategies"),
}
OTHERS = "Others"
"""Group of commands that no group names."""


class Grouped(typer.core.TyperGroup):
    """A group whose help lists its commands by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each of `GROUPS`."""
        commands = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))}
        shown = {name: command for name, command in commands.items() if not command.hidden}
        named = {name for names in GROUPS.values() for name in names}
        width = max(map(len, shown), default=0)
        for title, names in {**GROUPS, OTHERS: [name for name in shown if name not in named]}.items():
            rows = [(name, shown[name]) for name in names if name in shown]
            if rows:
                limit = formatter.width - 6 - width
                with formatter.section(title):
                    formatter.write_dl([(f"{name:<{width}}", one.get_short_help_str(limit)) for name, one in rows])
