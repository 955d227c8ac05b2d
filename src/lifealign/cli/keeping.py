"""Commands that keep a memory: repair it, back it up, restore it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.options import AsJson, MemoryPath
from lifealign.cli.output import command
from lifealign.core.reply import Reply


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(repair)
    app.command()(backup)
    app.command()(restore)


@command
def repair(memory: MemoryPath, as_json: AsJson = False) -> Reply:
    """Go back to the newest sound point of a damaged memory. Nothing is deleted."""
    from lifealign.store.repair import repair as mend

    done = mend(memory)
    document = {
        "memory": memory,
        "head": done.head,
        "before": done.before,
        "problems": list(done.problems),
        "moved": list(done.moved),
        "aside": done.aside,
    }
    if not done.problems:
        return Reply(document, [f"{memory}: every file matches its checksum; nothing to repair"])
    lines = [f"found: {problem}" for problem in done.problems]
    lines += [f"moved aside: {name}" for name in done.moved]
    if done.aside is not None:
        lines.append(f"what was moved aside is in {done.aside}")
    was = "" if done.before in (None, done.head) else f"; it was at {done.before}"
    return Reply(document, [*lines, f"{memory}: now at {done.head}{was}"])


@command
def backup(
    memory: MemoryPath,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Archive to write, e.g. memory.tar; must not exist.")],
    as_json: AsJson = False,
) -> Reply:
    """Write the memory to one archive with a checksum of every file. The archive is read back and compared."""
    from lifealign.store.backup import backup as pack

    done = pack(memory, out)
    document = {"memory": memory, "out": out, "sha256": done.sha256, "bytes": done.bytes, "files": done.files}
    size = f"{done.files} files, {done.bytes / 1e6:.2f} MB"
    lines = [f"written: {out} ({size}, at {done.head})", f"sha256 {done.sha256}"]
    return Reply({**document, "head": done.head}, lines)


@command
def restore(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="Archive that `lifealign backup` wrote.")],
    memory: Annotated[Path, typer.Argument(metavar="MEMORY", help="Where to make the memory; missing or empty.")],
    as_json: AsJson = False,
) -> Reply:
    """Make the memory of an archive. It gets its name when every file has been verified."""
    from lifealign.store.backup import restore as unpack

    done = unpack(archive, memory)
    document = {"memory": memory, "archive": archive, "sha256": done.sha256, "files": done.files, "head": done.head}
    return Reply(document, [f"{memory}: restored at {done.head}; every file matches its checksum"])
