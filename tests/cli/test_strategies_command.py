"""`lifealign strategies`: what it reads from docstrings, what it lists, and a strategy of an installed distribution."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lifealign.cli.app import app
from lifealign.cli.strategies import Described, describe
from lifealign.strategies import STRATEGIES
from support.paths import ROOT

MINE = ROOT / "examples" / "own_strategy" / "my_strategy.py"


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (None, Described(None, None, None, None)),
        ("Train apart.", Described("Train apart.", None, None, None)),
        (
            """Hold the weights.

            By Some One (2016, arXiv 1612.00796), then arXiv 1805.06370.

            Kept: F, n numbers (theta* is
            the stored adapter).

            Cost: 1, and one step.

            More text.
            """,
            Described(
                "Hold the weights.",
                "arXiv 1612.00796",
                "F, n numbers (theta* is the stored adapter)",
                "1, and one step",
            ),
        ),
        (
            "Mix.\n\n    Cost: 2.\n\n    Kept: rows; cost of none told.",
            Described("Mix.", None, "rows; cost of none told", "2"),
        ),
        (
            "Mix. Kept: what a sentence tells is no part.",
            Described("Mix. Kept: what a sentence tells is no part.", None, None, None),
        ),
    ],
)
def test_a_docstring_is_read_in_parts(docstring: str | None, expected: Described) -> None:
    assert describe(docstring) == expected


def test_every_built_in_strategy_is_listed_with_what_it_keeps_and_costs() -> None:
    result = CliRunner().invoke(app, ["strategies", "--json"])
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout) if row["origin"] == "built-in"}
    assert list(rows) == sorted(name for name in STRATEGIES if not STRATEGIES.is_outside(name))
    assert all(set(row) == {"name", "summary", "paper", "kept", "cost", "origin"} for row in rows.values())
    assert [name for name, row in rows.items() if not (row["summary"] and row["kept"] and row["cost"])] == []
    assert rows["ewc"]["paper"] == "arXiv 1612.00796"


def test_a_file_is_described_with_its_path_and_missing_parts_show_a_dash(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    # Without the registered name, which would last as long as the process.
    path.write_text(MINE.read_text().replace('@register_strategy("near_start")\n', ""))
    result = CliRunner().invoke(app, ["strategies", f"{path}:NearStart"])
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert first.startswith(f"{path}:NearStart ({path}): ")
    assert rest == ["    paper: -", "    kept: nothing more", "    cost: 1"]


def test_an_unknown_name_ends_in_one_sentence() -> None:
    result = CliRunner().invoke(app, ["strategies", "ewcc"])
    assert result.exit_code == 2
    assert "unknown strategy 'ewcc'" in result.stderr


def test_torch_loads_only_when_the_command_runs() -> None:
    code = "import lifealign.cli.app, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_installed_distribution_is_listed_with_its_version(tmp_path: Path) -> None:
    (tmp_path / "near_pkg.py").write_text(MINE.read_text().replace('@register_strategy("near_start")\n', ""))
    info = tmp_path / "near_dist-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: near-dist\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[lifealign.strategies]\nnear_installed = near_pkg:NearStart\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['lifealign', 'strategies', '--json']; "
        "from lifealign.cli.app import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    row = next(row for row in json.loads(result.stdout) if row["name"] == "near_installed")
    assert (row["origin"], row["kept"]) == ("near-dist 1.2", "nothing more")
