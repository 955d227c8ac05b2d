"""The house keeps its shape: few folders at the top, small files, short functions, one training loop."""

from __future__ import annotations

import ast
import inspect
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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


def test_at_most_fourteen_folders() -> None:
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


# --- one training loop ------------------------------------------------------------------------------------------------

OPTIMIZERS = frozenset(name for name, value in vars(torch.optim).items() if inspect.isclass(value))
"""Names that make an optimizer: `AdamW`, `SGD` and the others that torch has."""


def optimizer_lines(source: str) -> list[int]:
    """Lines that make an optimizer of torch or take a step; gradients alone (of a Fisher matrix, say) are no step."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else None
            name = node.func.id if isinstance(node.func, ast.Name) else method
            if name in OPTIMIZERS or method == "step":
                found.append(node.lineno)
    return sorted(found)


def test_only_the_training_loop_takes_optimizer_steps() -> None:
    """A second loop would have clipping, dropout and errors of its own, and drift away from the first."""
    found = {str(p.relative_to(PACKAGE)): optimizer_lines(p.read_text(encoding="utf-8")) for p in MODULES}
    assert {name: len(lines) for name, lines in found.items() if lines} == {"training/loop.py": 2}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("torch.optim.AdamW(parameters, lr=1.0)", [2]),
        ("optim.SGD(parameters)", [2]),
        ("Adam(parameters)", [2]),
        ("self.optimizer.step()", [2]),
        ("(loss / 2).backward()", []),
        ("step(loss)", []),
    ],
)
def test_a_second_training_loop_would_be_found(line: str, found: list[int]) -> None:
    assert optimizer_lines(f"def train(parameters):\n    {line}\n") == found
