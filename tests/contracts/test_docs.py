"""The documents say what the code is: every setting with its default, every command, links that lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lifealign.core.config import RunConfig, StrategyChoice
from lifealign.core.config_files import models_in
from lifealign.judging.llm.config import JudgeConfig
from lifealign.judging.llm.reply import REASONS
from lifealign.strategies import STRATEGIES
from lifealign.studies.config import StudyConfig
from lifealign.training.losses import ObjectiveConfig
from support.paths import ROOT

README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def shown(default: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return "[" + ", ".join(map(str, default)) + "]"
    return str(default).lower() if isinstance(default, bool) else str(default)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted key, default, description) of every field that is no section of its own."""
    for name, field in model.model_fields.items():
        inner = next((m for m in models_in(field.annotation) if m is not StrategyChoice), None)
        if inner is not None:
            many = "[]" if "tuple" in str(field.annotation) else ""
            yield from settings(inner, f"{prefix}{name}{many}.")
        elif f"{prefix}{name}" != "strategy":
            default = "required" if field.is_required() else shown(field.default)
            yield f"{prefix}{name}", default, field.description or ""


def strategy_settings() -> Iterator[tuple[str, str, str]]:
    """The options that all strategies share, and of each strategy those that are its own or have another default."""
    shared = {
        key: (shown(getattr(ObjectiveConfig(), key)), f.description or "")
        for key, f in ObjectiveConfig.model_fields.items()
    }
    for key, (default, text) in shared.items():
        yield f"strategy.{key}", default, text
    for name, strategy in sorted(STRATEGIES.items()):
        instance = strategy.Config()
        for key, field in strategy.Config.model_fields.items():
            default = shown(getattr(instance, key))
            if key not in shared or default != shared[key][0]:
                yield f"{name}.{key}", default, field.description or ""


def expected_lines() -> list[str]:
    every = [
        *settings(RunConfig),
        *settings(StudyConfig),
        ("strategy.name", StrategyChoice().name, "Name of the strategy."),
        *strategy_settings(),
    ]
    assert len({key for key, _, _ in every}) == len(every) > 50
    return [f"| `{key}` | {default} | {text} |" for key, default, text in every]


def test_every_setting_is_described_as_it_is() -> None:
    lines = CONFIGURATION.read_text(encoding="utf-8").splitlines()
    expected = expected_lines()
    assert all(not line.endswith("|  |") for line in expected), "a field without a docstring"
    missing = [line for line in expected if line not in lines]
    assert not missing, "docs/configuration.md lacks these lines:\n" + "\n".join(missing)
    stale = [line for line in lines if line.startswith("| `") and line not in expected]
    assert not stale, "docs/configuration.md describes what is not there:\n" + "\n".join(stale)


def test_every_setting_of_a_judge_is_described_as_it_is() -> None:
    lines = (
        (ROOT / "docs" / "judge.md").read_text(encoding="utf-8").partition("## The configuration file")[2].splitlines()
    )
    expected = [f"| `{key}` | {default} | {text} |" for key, default, text in settings(JudgeConfig)]
    assert [line for line in lines if line.startswith("| `")] == expected


def test_every_reason_of_a_judgement_without_verdict_is_described() -> None:
    lines = (ROOT / "docs" / "judge.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in (f"| `{name}` | {text} |" for name, text in REASONS.items()) if line not in lines] == []


def test_readme_lists_exactly_the_commands() -> None:
    import typer

    from lifealign.cli.app import app

    table = README.read_text(encoding="utf-8").partition("| command |")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| `([a-z-]+)", table, re.MULTILINE)
    group: Any = typer.main.get_command(app)
    assert sorted(listed) == sorted(group.commands)


def test_readme_calls_options_that_exist() -> None:
    import typer

    from lifealign.cli.app import app

    group: Any = typer.main.get_command(app)
    calls = re.findall(r"^    lifealign ([a-z-]+) (.*)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(calls) >= 8
    for command, rest in calls:
        found = group.commands[command]
        if hasattr(found, "commands"):  # a group, such as `ratings`
            found = found.commands[rest.split()[0]]
        known = {option for parameter in found.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", re.sub(r'"[^"]*"', "", rest))) <= known, (command, rest)


def test_python_of_the_readme_compiles_and_names_what_exists() -> None:
    import lifealign

    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
    methods = set(re.findall(r"\bmemory\.(\w+)\(", blocks[0]))
    assert {"learn", "evaluate", "scores", "export"} <= methods
    assert all(callable(getattr(lifealign.Memory, name)) for name in methods)
    for names in re.findall(r"^from lifealign import (.*)$", blocks[0], re.MULTILINE):
        assert set(names.split(", ")) <= set(lifealign.__all__)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    gone = [t for t in targets if not re.match(r"[a-z]+:", t) and not (document.parent / t).exists()]
    assert not gone


def test_files_named_in_the_documents_exist() -> None:
    pattern = re.compile(r"\b((?:tests|examples|benchmarks|docs|src)/[\w./-]+\.(?:py|yaml|md|json))\b")
    named = {(d.name, path) for d in DOCUMENTS for path in pattern.findall(d.read_text(encoding="utf-8"))}
    assert named
    assert [(d, path) for d, path in sorted(named) if not (ROOT / path).exists()] == []
