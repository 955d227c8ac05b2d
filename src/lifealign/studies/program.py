"""The program and the machine that a run was made with: code, commit, versions, processor. Imports no torch.

A finished run is used again only if the code that makes its numbers is the same. That code is found by following imports
from the strategy and from the learning of a stream. Comments, docstrings and layout do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lifealign.core.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
"""Folder of the package."""
COUNTED = ("consolidation", "data", "evaluation", "memory", "model", "strategies", "training")
"""Folders whose code can change a run's numbers. `core` and `store` hold formats and messages."""
ENTRANCE = "lifealign.memory.learning"
"""The module that learns and scores a stream."""
LIBRARIES = ("torch", "transformers", "peft")
DIGITS = 16
"""Hex digits kept of a sha256."""


def code_of(references: Iterable[str]) -> dict[str, str]:
    """File below the package -> checksum of its code, for all files that can change the numbers of a run.

    Args:
        references: of the strategy and the loss, such as ``lifealign.strategies.replay:Replay``; those of code from
            outside add nothing, because a run's id covers it.
    """
    waiting = [ENTRANCE, *(reference.partition(":")[0] for reference in references)]
    seen: set[Path] = set()
    found: dict[str, str] = {}
    while waiting:
        path = _file(waiting.pop())
        if path is None or path in seen:
            continue
        seen.add(path)
        checksum, imported = _read(path)
        # A package offers more than is used of it.
        waiting += () if path.name == "__init__.py" else imported
        name = path.relative_to(PACKAGE).as_posix()
        if name.partition("/")[0] in COUNTED:
            found[name] = checksum
    return dict(sorted(found.items()))


def together(code: Mapping[str, str]) -> str:
    """One checksum of all files."""
    return _sha256(json.dumps(code, sort_keys=True).encode())


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Files whose code differs, or that only one of the two has."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _file(module: str) -> Path | None:
    """The file of a module of this package; None for anything else."""
    first, *parts = module.split(".")
    if first != PACKAGE.name:
        return None
    path = PACKAGE.joinpath(*parts)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if parts and p.is_file()), None)


@functools.cache
def _read(path: Path) -> tuple[str, tuple[str, ...]]:
    """Checksum of a file's code, and the names of the modules that it may import."""
    tree = ast.parse(path.read_bytes())
    return _sha256(code_text(tree).encode()), tuple(_imports(tree))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that code may import, except for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.stmt | ast.excepthandler | ast.match_case) and not _for_types(node):
            yield from _imports(node)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def code_text(tree: ast.Module) -> str:
    """A module's code as text: the same for other comments, docstrings and layout, and in other versions of Python."""
    parts: list[str] = []
    _write(tree, parts)
    return "\n".join(parts)


def _write(value: Any, parts: list[str]) -> None:
    """Append a value of a syntax tree. Empty fields are left out, because newer versions of Python add some."""
    if isinstance(value, ast.AST):
        parts.append(f"({type(value).__name__}")
        for name in value._fields:
            held = getattr(value, name, None)
            if held is None and not isinstance(value, ast.Constant):
                continue
            if held == [] or name in ("ctx", "kind"):  # `ctx` follows from the place, `kind` is the u of u"text"
                continue
            parts.append(name)
            _write(_without_docstring(value, held) if name == "body" else held, parts)
        parts.append(")")
    elif isinstance(value, list):
        for one in value:
            _write(one, parts)
    else:
        parts.append(repr(value))


def _without_docstring(node: ast.AST, body: Any) -> Any:
    """A body without the strings that stand alone in it: docstrings, also those below an attribute."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return body
    return [
        one
        for one in body
        if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and isinstance(one.value.value, str))
    ]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def program() -> dict[str, Any]:
    """Version and commit of lifealign; the commit is None if it is unknown, and `modified` if files differ from it."""
    commit, modified = _commit()
    return {"version": __version__, "commit": commit, "modified": modified}


@functools.cache
def _commit() -> tuple[str | None, bool | None]:
    listed = _git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
    if listed is not None:  # not a repository that only surrounds the installation
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", str(PACKAGE))
        return _git("rev-parse", "HEAD"), None if changes is None else bool(changes)
    try:
        told = importlib.metadata.distribution("lifealign").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None, None
    return (json.loads(told).get("vcs_info", {}).get("commit_id") if told else None), None


def _git(*arguments: str) -> str | None:
    """Output of git in the package's folder; None if git is missing or refuses."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def libraries() -> dict[str, str | None]:
    """Installed versions of the libraries that compute."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine(accelerator: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """Kind of this machine: processor, cores that this process may use, threads of a computation, accelerator."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _processor(), "cores": cores, "threads": threads, "accelerator": accelerator}


def _processor() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model") and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown"


def _lines(path: Path) -> Iterator[str]:
    if path.is_file():
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines()


def machine_text(kind: Mapping[str, Any]) -> str:
    """A machine's kind for people, such as ``AMD EPYC, 2 cores, 1 thread``."""
    parts: Sequence[str] = (
        str(kind["processor"]),
        *(f"{kind[k]} {k if kind[k] != 1 else k[:-1]}" for k in ("cores", "threads") if kind.get(k)),
        *([str(kind["accelerator"])] if kind.get("accelerator") else []),
    )
    return ", ".join(parts)
