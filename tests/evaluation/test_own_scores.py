"""A score and a text metric from outside: registered, of a distribution and of a file; measured, shown, and missing."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lifealign import register_score, register_text_metric
from lifealign.cli.app import app
from lifealign.core import origin, registry
from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.evaluation import catalog
from lifealign.evaluation.gates import Gate, check_gates
from lifealign.evaluation.outside import require
from lifealign.memory.api import Memory
from lifealign.report.memories import build_results, render_html, scores_csv
from lifealign.report.terminal import summary_lines
from support.paths import ROOT
from support.rows import make_task

SOURCE = ROOT / "examples" / "own_score" / "my_scores.py"
PLAIN = '''
def prompt_words(pairs):
    """Words of the prompt."""
    return [len(row.prompt[-1].content.split()) for row in pairs.rows]


def words_in_common(answer, reference):
    return len(set(answer.split()) & set(reference.split()))
'''
Build = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """What this process registers, meets and loads lasts as long as the test; calling it is a new process."""
    tables = [(r, dict(r._entries)) for r in (catalog.SCORES, catalog.TEXT_METRICS)]

    def start_again() -> None:
        for one, entries in tables:
            one._entries, one._discovered = dict(entries), False
        catalog._met.clear()
        origin._placed.clear()
        registry._handed.clear()
        origin._loaded.clear()
        registry._entry_points.cache_clear()

    yield start_again
    monkeypatch.undo()
    start_again()


@pytest.fixture
def learnt(config: Build, tmp_path: Path, one_thread: None) -> Memory:
    """Two tasks without scores from outside."""
    settings = ("strategy.name=sequential", "evaluate.before=false", "evaluate.max_new_tokens=6")
    memory = Memory.create(tmp_path / "memory", config(*settings))
    for name in ("bread", "stars"):
        memory.learn(make_task(name, train=4, test=3))
    return memory


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The example's file, elsewhere."""
    path = tmp_path / "code" / "my_scores.py"
    path.parent.mkdir()
    return Path(shutil.copy(SOURCE, path))


def newest(memory: Memory) -> dict[str, Any]:
    return [record for record in memory._store.evaluations() if record["kind"] == "row"][-1]


def test_registered_ones_are_measured_and_shown_everywhere(learnt: Memory) -> None:
    @register_score("tokens", unit="tokens", better="neither")
    def chosen_tokens(pairs: Any) -> Any:
        """Tokens of the chosen answer."""
        assert [row.chosen.split()[0] for row in pairs.rows] == ["bread"] * 3
        return pairs.tokens[:, 0]

    @register_text_metric("same", rate=True)
    def same(answer: str, reference: str) -> float:
        return float(answer == reference)

    evaluation = learnt.evaluate(["bread"], scores=["tokens"], text_metrics=["same"], generations=2)
    assert evaluation.tasks["bread"]["tokens"]["rows"] == 3 and evaluation.tasks["bread"]["tokens"]["value"] >= 1
    # Wilson's interval of 0 of 2: up to z^2 / (2 + z^2).
    assert evaluation.tasks["bread"]["same"] == {
        "value": 0,
        "low": 0,
        "high": pytest.approx(65.762, abs=1e-3),
        "rows": 2,
    }
    assert learnt.show("stars")["scores"]["bread"]["tokens"] == evaluation.tasks["bread"]["tokens"]["value"]
    results = build_results([learnt.results()])
    assert "Chosen tokens, tokens  Last" in "\n".join(summary_lines(results))
    assert "Tokens of the chosen answer." in render_html(results) and ">Same, %<" in render_html(results)
    assert ",tokens,stars,bread," in scores_csv(results)
    gates = [Gate.parse("last.tokens>=1"), Gate.parse("last.same<=0"), Gate.parse("bwt.same>=0")]
    assert [g.held for g in check_gates(gates, learnt.summary())] == [True, True, False]
    record = newest(learnt)
    assert record["options"]["scores"] == ["tokens"] and set(record["outside"]) == {"tokens", "same"}
    assert record["scores"][0]["floors"]["rejected"]["same"] == [0, 0]
    count = len(learnt._store.evaluations())
    learnt.evaluate(["bread"], scores=["tokens"], text_metrics=["same"], generations=2)
    assert len(learnt._store.evaluations()) == count, "not measured twice"


def test_a_memory_without_them_has_no_trace(learnt: Memory) -> None:
    assert "scores" not in learnt._store.identity["config"]["evaluate"]
    assert all("outside" not in r and "scores" not in r["options"] for r in learnt._store.evaluations())
    assert "outside" not in learnt.results()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with a score and a text metric, on the path."""
    folder = tmp_path / "site"
    info = folder / "near_scores-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "near_scores.py").write_text(PLAIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: near-scores\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[lifealign.scores]\nprompt_words = near_scores:prompt_words\n"
        "[lifealign.text_metrics]\ncommon = near_scores:words_in_common\n"
    )
    monkeypatch.syspath_prepend(folder)
    registry._entry_points.cache_clear()
    yield folder
    sys.modules.pop("near_scores", None)


def test_those_of_a_distribution_and_what_is_said_when_it_is_gone(
    learnt: Memory, installed: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None], tmp_path: Path
) -> None:
    arguments = ["evaluate", str(learnt.path), "--generations", "2", "--text-metric", "common"]
    arguments += ["--score", "prompt_words", "--gate", "last.prompt_words>=3", "--gate", "last.common>=0", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["tasks"]["bread"]["prompt_words"]["value"] == 3 and "common" in document["tasks"]["stars"]
    assert newest(learnt)["outside"]["common"]["origin"]["distribution"] == "near-scores"

    monkeypatch.undo()
    sys.modules.pop("near_scores", None)
    forget()
    shown = CliRunner().invoke(app, ["show", str(learnt.path), "stars", "--all"])
    assert shown.exit_code == 0 and "prompt_words: 3" in shown.stdout
    report = CliRunner().invoke(app, ["report", str(learnt.path), "--out", str(tmp_path / "out")])
    assert report.exit_code == 0 and "Prompt words" in report.stdout
    told = "score 'prompt_words' is not installed here: it was measured with near-scores 1.2"
    for one in (shown, report):
        assert told in one.stderr and "pip install near-scores==1.2" in one.stderr
    assert "From near-scores 1.2." in (tmp_path / "out" / "report.html").read_text()
    assert ",prompt_words,stars,bread,3.0," in (tmp_path / "out" / "scores.csv").read_text()
    # What is stored needs nothing, what is new does.
    forget()
    same = CliRunner().invoke(app, arguments)
    assert same.exit_code == 0 and json.loads(same.stdout)["tasks"] == document["tasks"]
    more = CliRunner().invoke(app, [*arguments, "--generations", "1"])
    assert more.exit_code == 2
    assert "evaluate.text_metrics: unknown text metric 'common'" in more.stderr
    assert "it was measured with near-scores 1.2; install it: pip install near-scores==1.2" in more.stderr


def test_a_distribution_may_use_the_decorators(installed: Path) -> None:
    shutil.copy(SOURCE, installed / "near_decorated.py")
    points = installed / "near_scores-1.2.dist-info" / "entry_points.txt"
    points.write_text("[lifealign.scores]\nshort_wins = near_decorated:short_wins\n")
    registry._entry_points.cache_clear()
    try:
        require([], ["short_wins"])
    finally:
        sys.modules.pop("near_decorated", None)
    assert catalog.score("short_wins").title == "Short answer wins, %"


def test_those_of_a_file_are_found_again_and_their_changes_told(
    learnt: Memory,
    mine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forget: Callable[[], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(mine.parent)
    score, metric = "my_scores.py:short_wins", "my_scores.py:shouting"
    first = learnt.evaluate(scores=[score], text_metrics=[metric], generations=1)
    assert capfd.readouterr().err.count(f"running the code of {mine}") == 1
    entry = catalog.score(score)
    assert (entry.title, entry.better, entry.rate) == ("Short answer wins, %", "neither", True), "as it is registered"
    assert all(cells[metric]["rows"] == 1 for cells in first.tasks.values())
    assert check_gates([Gate.parse(f"last.{metric} <= 100")], first.summary)[0].held
    # From elsewhere, in another process: the record knows where the file was.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    forget()
    again = Memory.open(learnt.path)
    assert again.evaluate(["bread"], as_of="bread", scores=[score], text_metrics=[metric], generations=1)
    assert newest(again)["after"] == "0001-bread" and again.score_notes() == []
    # Changed: measured anew where asked, and told until all cells are of one version.
    mine.write_text(mine.read_text() + "\n# changed\n")
    count = len(again._store.evaluations())
    again.evaluate(scores=[score], text_metrics=[metric], generations=1)
    assert len(again._store.evaluations()) == count + 1
    assert [f"{score!r} has changed between its values" in note for note in again.score_notes()] == [True, False]
    again.evaluate(["bread"], as_of="bread", scores=[score], text_metrics=[metric], generations=1)
    assert again.score_notes() == []
    # Gone.
    mine.unlink()
    forget()
    gone = Memory.open(learnt.path)
    assert score in gone.results()["scores"]
    err = capfd.readouterr().err
    assert f"score {score!r} is not installed here: it was measured with {mine} (sha256 " in err
    assert "put the file back, or set LIFEALIGN_CODE_PATH" in err
    with pytest.raises(ConfigError, match=r"evaluate\.scores: my_scores\.py: no such file"):
        gone.evaluate(["bread"], scores=[score], generations=0, split="validation")


def test_one_that_the_configuration_names_is_refused_before_a_model_is_loaded(
    config: Build, tmp_path: Path, mine: Path, forget: Callable[[], None]
) -> None:
    settings = ("strategy.name=sequential", "evaluate.before=false")
    with pytest.raises(ConfigError, match=r"evaluate\.scores: unknown score 'nowhere'"):
        Memory.create(tmp_path / "m", config(*settings, "evaluate.scores=[nowhere]"))
    memory = Memory.create(tmp_path / "m", config(*settings, f"evaluate.scores=['{mine}:short_wins']"))
    assert memory._store.identity["config"]["evaluate"]["scores"] == [f"{mine}:short_wins"]
    found = memory.learn(make_task("bread", train=4, test=3))
    assert f"bread.{mine}:short_wins" in found.scores
    # Gone: learning goes on where it is left out.
    mine.unlink()
    forget()
    stars = make_task("stars", train=4, test=3)
    with pytest.raises(ConfigError, match=r"evaluate\.scores: .*my_scores\.py: no such file"):
        Memory.open(tmp_path / "m").learn(stars)
    learnt = Memory.open(tmp_path / "m").learn(stars, settings=["evaluate.scores=[]"])
    assert "stars.accuracy" in learnt.scores and f"stars.{mine}:short_wins" not in learnt.scores


def test_answers_do_not_wait_for_a_metric_that_is_gone(
    config: Build, tmp_path: Path, mine: Path, forget: Callable[[], None]
) -> None:
    from lifealign.core.progress import LineProgress
    from lifealign.memory.answering import Asked

    settings = ("strategy.name=sequential", "evaluate.before=false", "evaluate.generations=1")
    memory = Memory.create(
        tmp_path / "m", config(*settings, f"evaluate.text_metrics=['{mine}:shouting', length_words]")
    )
    memory.learn(make_task("bread", train=4, test=3))
    mine.unlink()
    forget()
    (answer,) = Memory.open(tmp_path / "m").answers(Asked(count=1, max_new_tokens=3), progress=LineProgress())
    assert set(answer.scores) == {"length_words", "accuracy", "margin"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda pairs: pairs.missing, r"failed: AttributeError: .*'missing'"),
        (lambda pairs: [1.0], r"expected 3 numbers, one per row, got shape \[1\]"),
        (lambda pairs: [0.0, float("nan"), 1.0], r"the value of row 2 is nan; a rate is 0 to 1"),
        (lambda pairs: [0.0, 0.5, 3.0], r"the value of row 3 is 3; a rate is 0 to 1"),
    ],
)
def test_a_score_that_gives_something_else_ends_in_one_sentence(learnt: Memory, values: Any, message: str) -> None:
    register_score("odd", values, rate=True)
    with pytest.raises(ConfigError, match=rf"score 'odd' \(.*\):? {message}"):
        learnt.evaluate(["bread"], scores=["odd"])


def test_the_page_shows_the_file_and_its_command_runs(
    learnt: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "how-to" / "own-score.md").read_text()
    shown = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert shown is not None and SOURCE.read_text().endswith(shown[1])
    monkeypatch.chdir(ROOT)
    (command,) = re.findall(r"^lifealign ((?:.*\\\n)*.*)$", page, re.MULTILINE)
    words = shlex.split(command.replace("\\\n", " "))
    result = CliRunner().invoke(app, [str(learnt.path) if word == "runs/memory" else word for word in words])
    assert result.exit_code == 0 and ":short_wins " in result.stdout and "held" in result.stdout, result.stderr


def test_mistakes_end_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"score 'nll' cannot be registered: the name is taken \(built-in\)"):
        register_score("nll", lambda pairs: pairs.tokens)
    with pytest.raises(ConfigError, match=r"score 'chrf' cannot be registered: the name is taken by a text metric"):
        register_score("chrf", lambda pairs: pairs.tokens)
    with pytest.raises(ConfigError, match=r"expected a function \(answer, reference\) -> number, got 3"):
        register_text_metric("three", 3)
    with pytest.raises(ConfigError, match=r"better='up' is unknown; allowed: higher, lower, neither"):
        register_text_metric("up", lambda a, b: 0.0, better="up")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"evaluate\.scores: 'nll' is built in"):
        require([], ["nll"])
    path = tmp_path / "none.py"
    path.write_text("VALUE = 3\n")
    with pytest.raises(ConfigError, match=r"evaluate\.text_metrics: .*none\.py:VALUE: expected a function"):
        require([f"{path}:VALUE"])
    with pytest.raises(ConfigError, match=r"unknown score 'nowhere'"):
        Gate.parse("last.nowhere>=1")
