"""The documents say what the code is: generated parts are complete, commands and files exist, the README's Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lifealign
from lifealign.core.config import RunConfig
from lifealign.strategies import STRATEGIES
from lifealign.training.losses import LOSSES, OPTIONS
from site_commands import GROUPS, command_page, commands
from site_python import api_page
from site_scores import gate_summary_table, score_table, summary_table
from site_settings import MODELS, settings, settings_table
from site_strategies import own_settings, shared_settings, strategy_page
from site_text import escape
from support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
TOP = sorted(ROOT.glob("*.md"))
PAGES = sorted(ROOT.glob("docs/**/*.md"))
QUICKSTART = ROOT / "examples" / "quickstart" / "run.py"


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def parts(text: str) -> set[str]:
    return set(re.findall(r"^<!-- generated: (.+) -->$", text, re.MULTILINE))


# --- what is made from the code ---


def test_configuration_page_asks_for_every_section() -> None:
    sections = {"top" if "." not in s.key else s.key.partition(".")[0] for s in settings(RunConfig)}
    wanted = {f"settings run {section}" for section in sections} | {"strategy-options", "settings study", "presets"}
    assert parts(page("reference/configuration.md")) == wanted
    assert "settings judge" in parts(page("reference/judging.md"))


def test_every_setting_has_a_docstring_a_row_and_one_name() -> None:
    for name, model in MODELS.items():
        found = list(settings(model))
        assert len({s.key for s in found}) == len(found) > 10
        assert all(s.text for s in found)
        assert settings_table(name).count("\n| `") == len(found)
    rows = settings_table("run", "train").splitlines()
    assert (
        "| `train.max_grad_norm` | 1.0 | Gradient norm above which gradients are scaled down. 0 &lt; max\\_grad\\_norm. |"
        in rows
    )
    assert any(
        row.startswith("| `stream.tasks[].train.path` | required | ") for row in settings_table("run").splitlines()
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_has_a_page_with_its_options_and_its_measured_row(name: str) -> None:
    text = strategy_page(name)
    assert all(s.text and f"| `{s.key}` |" in text for s in own_settings(name))
    shared = {s.key.partition(".")[2]: s for s in shared_settings()}
    own = {s.key.partition(".")[2] for s in own_settings(name)}
    assert {key for key in STRATEGIES[name].Config.model_fields if key not in shared} <= own
    assert (f"| **{name}** |" in text and "| [joint](joint.md) |" in text) or name == "joint"


def test_a_measured_row_is_that_of_the_main_table() -> None:
    """From results/main-table/tables/main-order1.md and cost.md: 65.74 [42.77, 88.72], -30.56 [-62.18, 1.07], 9.81 MB.

    Times are left out: the machines of these runs are not recorded.
    """
    row = next(line for line in strategy_page("ewc").splitlines() if line.startswith("| **ewc**"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2:4] == ["66 [43, 89]", "-31 [-62, 1]"]
    assert cells[5:7] == ["4.3 [3.8, 4.8]", "9.8"]


def test_every_loss_and_its_options_have_a_row() -> None:
    def cells(heading: str) -> list[list[list[str]]]:
        table = page("reference/losses.md").partition(f"## {heading}\n\n")[2].partition("\n\n")[0]
        return [[re.findall("`(.+?)`", cell) for cell in row.split(" | ")] for row in table.splitlines()[2:]]

    built_in = [name for name in LOSSES if not LOSSES.is_outside(name)]
    assert [row[0] for row in cells("Names")] == [[name] for name in built_in]
    readers = {option: set(row[1]) for row in cells("Options") for option in row[0] if option in OPTIONS}
    assert readers == {option: {name for name in built_in if option in LOSSES[name].options} for option in OPTIONS}


def test_strategies_are_listed_as_they_are() -> None:
    listed = re.findall(r"^\| \[([a-z0-9]+)\]\(\1\.md\)", page("reference/strategies/index.md"), re.MULTILINE)
    assert sorted(listed) == sorted(STRATEGIES)


def test_every_command_is_on_the_page_under_its_purpose() -> None:
    text = command_page()
    titles = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert sorted(titles) == sorted(commands())
    assert "## Other" not in text, "a command is in no group of lifealign.cli.help"
    assert {name for names in GROUPS.values() for name in names} == {name.split()[0] for name in commands()}
    assert "lifealign learn MEMORY ROWS --name TASK [OPTIONS]" in text


def test_every_public_name_is_on_the_python_page() -> None:
    """And `lifealign.testing`, which is imported by itself because it needs pytest."""
    listed = [line.rpartition(".")[2] for line in api_page().splitlines() if line.startswith("::: ")]
    assert sorted(listed) == sorted([*lifealign.__all__, "testing"])


def test_every_score_and_summary_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from lifealign.evaluation import catalog
    from lifealign.evaluation.catalog import GATE_SUMMARIES, scores, summaries

    monkeypatch.setattr(catalog, "_met", {})  # scores from outside that other tests measured in this process
    assert re.findall(r"^\| `(\w+)`", score_table(), re.MULTILINE) == list(scores())
    assert re.findall(r"^\| `(\w+)`", summary_table(), re.MULTILINE) == list(summaries())
    assert re.findall(r"^\| `(\w+)`", gate_summary_table(), re.MULTILINE) == list(GATE_SUMMARIES)
    assert "| `nll` | NLL per token | nats | lower |" in score_table()


def test_plain_text_becomes_markdown_that_shows_it() -> None:
    assert escape("a_b*c <x> `k | v_w` arXiv 2509.17183") == (
        "a\\_b\\*c &lt;x> `k \\| v_w` [arXiv 2509.17183](https://arxiv.org/abs/2509.17183)"
    )


def test_every_part_that_a_page_asks_for_is_made() -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    import hooks

    asked = [(path.name, text) for path in PAGES for text in parts(path.read_text(encoding="utf-8"))]
    assert len(asked) > 15
    for name, text in asked:
        made = hooks.on_page_markdown(f"<!-- generated: {text} -->")
        assert len(made) > 100 and "generated:" not in made, (name, text)


# --- what is written by hand ---


def test_readme_is_short_and_keeps_its_negative_results() -> None:
    assert len(README.splitlines()) <= 120
    words = " ".join(README.split())
    assert "`joint` is the upper bound" in words
    assert "Plain replay is level with LifeAlign as published" in words


def test_readme_calls_options_that_exist() -> None:
    known = commands()
    calls = re.findall(r"^    lifealign ([a-z-]+) (.*)$", README, re.MULTILINE)
    assert len(calls) == 5
    for name, rest in calls:
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", re.sub(r'"[^"]*"', "", rest))) <= options, (name, rest)


def test_readme_shows_the_quickstart() -> None:
    block = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[0]
    assert QUICKSTART.read_text(encoding="utf-8").partition('"""\n\n')[2] == block
    for names in re.findall(r"^from lifealign import (.*)$", block, re.MULTILINE):
        assert set(names.split(", ")) <= set(lifealign.__all__)


def test_quickstart_runs_as_it_stands_and_again(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the model is another one; the second run finds the task and the adapter, and scores the same."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    code = QUICKSTART.read_text(encoding="utf-8")
    assert code.count("model.name=smollm2-135m") == 1
    code = code.replace("model.name=smollm2-135m", f"model.name={tiny_dir}")
    printed = []
    for _ in range(2):
        exec(compile(code, str(QUICKSTART), "exec"), {"__name__": "__main__"})
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "support-tone" in printed[0]
    assert [path.name for path in tmp_path.glob("runs/support/*")] and (tmp_path / "runs/support/adapter").is_dir()


@pytest.mark.parametrize("document", TOP, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    """Links inside docs/ are the site's: `make docs` fails on a broken one."""
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    gone = [t for t in targets if not re.match(r"[a-z]+:", t) and not (document.parent / t).exists()]
    assert not gone


def test_files_named_in_the_documents_exist() -> None:
    pattern = re.compile(r"\b((?:tests|examples|benchmarks|docs|src|results)/[\w./-]+\.(?:py|yaml|md|json|jsonl))\b")
    named = {
        (document.name, path)
        for document in [*TOP, *PAGES]
        for path in pattern.findall(re.sub(r"\]\([^)]*\)", "", document.read_text(encoding="utf-8")))
    }
    assert len(named) > 20
    assert [(d, path) for d, path in sorted(named) if not (ROOT / path).exists()] == []
