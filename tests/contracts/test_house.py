"""The house keeps its shape: few folders at the top, small files, short functions."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.paths import ROOT

PACKAGE = ROOT / "src" / "lifealign"
MODULES = sorted(PACKAGE.rglob("*.py"))
LOOP = "training/loop.py:train_stage"
"""The training loop may be read in one piece."""


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(file:name, lines) of every function and method, from its `def` to its end; docstrings count."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{path.relative_to(PACKAGE)}:{node.name}", node.end_lineno - node.lineno + 1


def test_at_most_thirteen_folders() -> None:
    folders = {p.relative_to(PACKAGE).parts[0] for p in MODULES if p.parent != PACKAGE}
    assert len(folders) <= 13, sorted(folders)


def test_files_are_small() -> None:
    sizes = {str(p.relative_to(PACKAGE)): lines_of(p) for p in MODULES}
    assert len(sizes) > 100
    assert statistics.median(sizes.values()) <= 160
    assert {name: size for name, size in sizes.items() if size > 400} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_are_short(path: Path) -> None:
    assert {name: size for name, size in functions(path) if size > (80 if name == LOOP else 60)} == {}
