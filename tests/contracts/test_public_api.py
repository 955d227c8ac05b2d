"""The public names load, are sorted, and importing the package imports no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lifealign


def test_every_public_name_loads_and_the_list_is_sorted() -> None:
    assert lifealign.__all__ == sorted(lifealign.__all__)
    for name in lifealign.__all__:
        assert getattr(lifealign, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Memori'"):
        _ = lifealign.Memori


@pytest.mark.parametrize(
    "statement",
    [
        "import lifealign",
        "from lifealign import Memory",
        "import lifealign.evaluation.metrics",
        "import lifealign.evaluation.results",
        "import lifealign.report.memories",
        "import lifealign.studies.report.write",
    ],
)
def test_no_torch_at_import(statement: str) -> None:
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
