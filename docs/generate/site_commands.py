"""The commands as a page: usage, arguments and options of each, from the parser itself."""

from __future__ import annotations

from typing import Any

import typer

from lifealign.cli.app import app
from lifealign.cli.help import GROUPS
from site_text import escape, table


def commands() -> dict[str, Any]:
    """Every command by name, those of a group as "GROUP NAME"."""
    top: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, command in top.commands.items():
        inner = getattr(command, "commands", None)
        found.update({f"{name} {sub}": c for sub, c in inner.items()} if inner else {name: command})
    return found


def command_page() -> str:
    """All commands, by purpose."""
    known = commands()
    left = dict(known)
    parts = []
    for title, names in GROUPS.items():
        taken = [full for full in known if full.split()[0] in names]
        parts += [f"## {title}", *(_command(full, left.pop(full)) for full in taken)]
    if left:
        parts += ["## Other", *(_command(full, command) for full, command in left.items())]
    return "\n\n".join(parts)


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([f"lifealign {name}", *map(_usage, arguments), *_required(options), "[OPTIONS]"])
    parts = [f"### {name}", escape(command.help or ""), f"```text\n{usage}\n```"]
    if arguments:
        parts.append(table(("argument", "meaning"), ((f"`{_metavar(p)}`", escape(p.help or "")) for p in arguments)))
    if options:
        rows = ((_option(p), _default(p), escape(p.help or "")) for p in options)
        parts.append(table(("option", "default", "meaning"), rows))
    return "\n\n".join(parts)


def _usage(argument: Any) -> str:
    many = "..." if argument.nargs == -1 or argument.multiple else ""
    text = f"{_metavar(argument)}{many}"
    return text if argument.required else f"[{text}]"


def _required(options: list[Any]) -> list[str]:
    return [f"{p.opts[0]} {_metavar(p)}" for p in options if p.required]


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _option(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return names if option.is_flag else f"{names} `{_metavar(option)}`"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.is_flag or option.default is None or option.default == []:
        return ""
    value = option.default
    return f"`{getattr(value, 'value', value)}`"
