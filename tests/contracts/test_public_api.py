"""The public names load, are sorted, and importing the package imports no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import lifealign
from support.paths import ROOT

PACKAGE = ROOT / "src" / "lifealign"
HEAVY = {"accelerate", "peft", "torch", "transformers"}
"""Libraries that take seconds to import."""
WITHOUT_TORCH = ["cli", "core", "data", "evaluation", "judging", "memory", "report", "store", "studies"]
"""Folders that can be used without them: reports, checks of data, judging, `--help`."""
WITH_TORCH = {
    f"lifealign.memory.{name}"
    for name in [
        "adopting",
        "composer",
        "exporting",
        "learning",
        "numerics",
        "policies",
        "policy",
        "prompt_baseline",
        "pushing",
        "recompose",
        "recovery.kept",
        "recovery.loop",
        "recovery.run",
        "recovery.spaces",
        "references",
        "retiring",
        "routing",
        "row_scores",
        "scoring",
        "selecting",
        "session",
        "signatures",
        "sleep",
        "work",
    ]
} | {f"lifealign.memory.serving.{name}" for name in ["app", "engine", "exchange", "loading"]}
"""The part of a light folder that holds a loaded model or computes with tensors."""


def test_every_public_name_loads_and_the_list_is_sorted() -> None:
    assert lifealign.__all__ == sorted(lifealign.__all__)
    for name in lifealign.__all__:
        assert getattr(lifealign, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Memori'"):
        _ = lifealign.Memori


def modules_of(folder: str) -> list[str]:
    """The modules of a folder of the package, as they are imported."""
    files = sorted((PACKAGE / folder).rglob("*.py"))
    names = [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for file in files
    ]
    return [name for name in names if name not in WITH_TORCH]


def first_heavy_import(statements: Sequence[str]) -> str:
    """Run import statements in a fresh interpreter; the first that loads a heavy library, and which; else nothing."""
    lines = ["import sys"]
    for statement in statements:
        lines += [
            statement,
            f"if found := sorted({HEAVY} & sys.modules.keys()):",
            f"    print({statement!r}, 'loads', *found)",
            "    sys.exit()",
        ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("folder", WITHOUT_TORCH)
def test_no_module_of_a_light_folder_imports_torch(folder: str) -> None:
    modules = modules_of(folder)
    assert f"lifealign.{folder}" in modules
    statements = [f"import {name}" for name in modules]
    if folder == "memory":
        statements = ["import lifealign", "from lifealign import Memory", *statements]
    assert first_heavy_import(statements) == ""


def test_a_heavy_import_is_reported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()
    (tmp_path / "light.py").write_text("import torch")
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    assert first_heavy_import([before, "import json", "import light"]) == "import light loads torch"
