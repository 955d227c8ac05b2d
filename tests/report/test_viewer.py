"""The viewer over HTTP: who may look, what is found below a folder, what its pages say, and that it changes nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from fastapi.testclient import TestClient

from lifealign.cli.view import _study_page, _study_values
from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.core.progress import NullProgress
from lifealign.data.answers import write_answers
from lifealign.evaluation.gates import Gate
from lifealign.memory.api import Memory
from lifealign.report.viewer import found
from lifealign.report.viewer.app import Viewer, create_app
from lifealign.report.viewer.live import Tail, learning, live_log
from lifealign.report.viewer.pages import Shelf, StudyPages, _trend
from lifealign.report.viewer.run import view
from lifealign.store.layout import LIVE, WORK
from lifealign.training.live_log import LiveLog
from support.answers import life
from support.rows import make_task
from support.store import full_memory, snapshot
from support.study_document import make_study

PAGES = StudyPages(_study_values, _study_page)
TOKEN = "let-me-in"
STEP = {"stage": "preference", "step": 1, "loss": 0.5, "accuracy": 0.75, "grad_norm": 1.0}


def client_of(root: Path, *, enter: bool = True, host: str = "127.0.0.1:8700", any_host: bool = False) -> TestClient:
    app = create_app(Viewer(Shelf(root, PAGES), TOKEN, any_host))
    client = TestClient(app, base_url=f"http://{host}", follow_redirects=False)
    if enter:
        assert client.get(f"/open/{TOKEN}").status_code == 303
    return client


@pytest.fixture
def learnt(config: Callable[..., RunConfig], tmp_path: Path, one_thread: None) -> Memory:
    memory = Memory.create(tmp_path / "runs" / "a desk?", config("train.learning_rate=0.05", "train.epochs=1"))
    memory.learn(make_task("bread", train=8, test=9))
    memory.learn(make_task("stars", train=8, test=9), note="<b>from the May export</b>")
    memory.evaluate()
    memory.tag("now", "production")
    memory.check([Gate.parse("last>=0", memory.tasks()), Gate.parse("bwt>=100", memory.tasks())], keep=True)
    return memory


def test_everything_below_a_folder_is_found_by_what_it_is(tmp_path: Path) -> None:
    full_memory(tmp_path / "team" / "desk")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "results.json").write_text(json.dumps(make_study()), encoding="utf-8")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "results.json").write_text('{"runs": []}')
    write_answers(tmp_path / "a.jsonl", life("q", "+-+-"))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    (tmp_path / ".hidden").mkdir()
    full_memory(tmp_path / ".hidden" / "desk")
    (tmp_path / "link").symlink_to(tmp_path / "team")
    (tmp_path / "broken.jsonl").write_bytes(b"\xff[[[[")
    there = found.find(tmp_path)
    assert (list(there.memories), list(there.studies), list(there.answers)) == (
        ["team/desk"],
        ["s/results.json"],
        ["a.jsonl"],
    )
    assert list(found.find(tmp_path / "team" / "desk").memories) == ["desk"] and not there.notes


def test_a_folder_that_is_too_deep_or_too_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "/".join("abcdefghij")).mkdir(parents=True)
    assert any("too deep" in note for note in found.find(tmp_path).notes)
    monkeypatch.setattr(found, "MOST_ENTRIES", 3)
    assert any("only the first 3" in note for note in found.find(tmp_path).notes)


@pytest.mark.parametrize(
    ("method", "path", "host", "enter", "status"),
    [
        ("GET", "/", "127.0.0.1:8700", False, 401),
        ("GET", "/open/another", "127.0.0.1:8700", False, 404),
        ("GET", "/", "evil.example", True, 400),
        ("POST", "/", "127.0.0.1:8700", True, 405),
        ("DELETE", "/memory/desk", "127.0.0.1:8700", True, 405),
        ("GET", "/memory/..%2F..%2Fetc", "127.0.0.1:8700", True, 404),
        ("GET", "/answers/desk/store.json", "127.0.0.1:8700", True, 404),
        ("GET", "/docs", "127.0.0.1:8700", True, 404),
        ("GET", "/", "localhost", True, 200),
    ],
)
def test_who_may_look_at_what(tmp_path: Path, method: str, path: str, host: str, enter: bool, status: int) -> None:
    full_memory(tmp_path / "desk")
    client = client_of(tmp_path, enter=False, host=host)
    if enter:
        client.cookies.set(Viewer(Shelf(tmp_path, PAGES), TOKEN).cookie, TOKEN)
    answer = client.request(method, path)
    assert answer.status_code == status
    assert "script-src" in answer.headers["content-security-policy"] and answer.headers["x-frame-options"] == "DENY"
    assert (TOKEN in answer.text, str(tmp_path) in answer.text) == (False, status == 200)


def test_another_name_is_let_in_where_others_may_reach_the_server(tmp_path: Path) -> None:
    assert client_of(tmp_path, host="desk.example", any_host=True).get("/").status_code == 200


def test_the_pages_of_a_memory_and_nothing_changes(learnt: Memory, tmp_path: Path) -> None:
    before = snapshot(tmp_path / "runs")
    client = client_of(tmp_path / "runs")
    index = client.get("/").text
    link = re.search(r'href="(/memory/[^"]+)">a desk\?</a>', index)
    assert link is not None and link[1] == "/memory/a%20desk%3F"
    assert "failed</span>" in index and "stars<small>" in index and "needs two tasks" not in index
    assert '<svg class="trend"' in index, "both stages have the scores of all tasks so far"
    page = client.get(link[1]).text
    assert "bwt.accuracy&gt;=100" in page and ">production</span>" in page and "0002-stars" in page
    assert "&lt;b&gt;from the May export&lt;/b&gt;" in page and "<b>from" not in page
    diff = client.get("/diff/a%20desk%3F?a=bread&b=now").text
    assert "<td>accuracy</td>" in diff and "<option selected>bread</option>" in diff
    assert client.get("/diff/a%20desk%3F?a=nothing").status_code == 404
    report = client.get("/report/a%20desk%3F/")
    assert "Learnt last: stars" in report.text and 'href="/memory/a%20desk%3F"' in report.text
    scripts = re.findall(r"<script>(.*?)</script>", report.text, re.DOTALL)
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in report.headers["content-security-policy"]
    assert scripts and "script-src 'unsafe-inline'" not in report.headers["content-security-policy"]
    assert client.get("/report/a%20desk%3F/results.json").json()["runs"][0]["tasks"] == ["bread", "stars"]
    assert client.get("/report/a%20desk%3F/scores.csv").text.startswith("method,seed,metric")
    assert "aligned on 2 tasks" in client.get("/card/a%20desk%3F").text
    assert snapshot(tmp_path / "runs") == before


def test_values_are_computed_again_only_after_a_change(learnt: Memory, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "runs", PAGES)
    first = shelf.results(learnt.path)
    assert shelf.results(learnt.path) is first
    learnt.rollback("bread")
    assert shelf.results(learnt.path)["runs"][0]["tasks"] == ["bread"]


def test_a_trend_is_of_stages_whose_tasks_were_all_scored() -> None:
    def trend(R: list[list[float | None]], **more: Any) -> Any:
        return _trend({"tasks": ["a", "b", "c"][: len(R)], "scores": {"accuracy": {"R": R}}, **more}, "accuracy")

    whole = trend([[100.0, None], [50.0, 100.0]])
    assert (whole["first"], whole["last"], whole["count"]) == (100.0, 75.0, 2)
    assert trend([[100.0, None], [None, 90.0]]) is None, "the second would be a mean over other tasks"
    gone = trend([[100.0, None, None], [80.0, 60.0, None], [None, 60.0, 100.0]], ends={"a": 2})
    assert (gone["last"], gone["count"]) == (80.0, 3), "a task that was retired is not missed"


def test_studies_answers_and_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(make_study()), encoding="utf-8")
    write_answers(tmp_path / "a.jsonl", life("what is it?", "+-+-"))
    memory = full_memory(tmp_path / "desk").path
    (memory / "HEAD").write_text("torn")
    client = client_of(tmp_path)
    index = client.get("/").text
    assert "Cannot be read:" in index and "HEAD" in index and "1 study, 1 file of answers" in index
    assert "/study/results.json" in index
    assert make_study()["study"] in client.get("/study/results.json").text
    assert "what is it?" in client.get("/answers/a.jsonl").text
    assert client.get("/memory/desk").status_code == 404
    (tmp_path / "results.json").write_text('{"study": "s", "runs": 5}')
    assert client.get("/").text.count("Cannot be read:") == 2 and client.get("/study/results.json").status_code == 404


def test_an_empty_folder_says_so_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    assert "Nothing to show yet" in client_of(tmp_path).get("/").text
    with pytest.raises(ConfigError, match="no such folder"):
        view(tmp_path / "none", PAGES, "127.0.0.1", 0, False, lambda link: None)
    with pytest.raises(ConfigError, match="--allow-remote"):
        view(tmp_path, PAGES, "0.0.0.0", 0, False, lambda link: None)


# --- a task that is being learnt ---


def test_a_live_log_is_read_while_it_grows(tmp_path: Path) -> None:
    memory = full_memory(tmp_path / "desk").path
    tail = Tail(memory)
    assert tail.read() == ("ended", []) and learning(memory) is None
    directory = memory / WORK / "bread-1"
    head = {"task": "bread", "steps": 3}
    with LiveLog(directory, head, [], NullProgress()) as log:
        log.add(STEP)
        shown = {**head, **{key: STEP[key] for key in ("stage", "step", "loss", "accuracy")}}
        assert tail.read() == ("begun", [shown]) and tail.read() == ("more", [])
        log.add({**STEP, "step": 2})
        assert [line["step"] for line in tail.read()[1]] == [2]
        path = live_log(memory)
        assert path is not None
        with path.open("a") as torn:
            torn.write('{"task": "bre')
        assert tail.read() == ("more", []), "a line is read when it is whole"
    now = learning(memory)
    assert now is not None and now["step"] == 2 and now["quiet"] < 60
    with LiveLog(directory, head, [STEP, {**STEP, "step": 2}], NullProgress()):  # resumed from a checkpoint
        assert [line["step"] for line in tail.read()[1]] == [1, 2]
    path = live_log(memory)
    assert path is not None
    path.unlink()
    assert tail.read() == ("ended", [])


def test_a_log_of_other_shape_or_outside_of_the_memory_is_no_step(tmp_path: Path) -> None:
    memory = full_memory(tmp_path / "desk").path
    directory = memory / WORK / "w"
    directory.mkdir()
    (directory / "live-1.jsonl").write_text('[1]\n{"step": [2], "loss": 1}\nno\n')
    assert Tail(memory).read() == ("begun", [{"loss": 1}])
    (directory / "live-1.jsonl").unlink()
    (tmp_path / "secret").write_text('{"loss": 1}\n')
    (directory / "live-1.jsonl").symlink_to(tmp_path / "secret")
    assert learning(memory) is None and Tail(memory).read() == ("more", [])


class Watching(NullProgress):
    """Looks at the viewer's index whenever a step is done."""

    def __init__(self, root: Path) -> None:
        self.shelf, self.seen = Shelf(root, PAGES), []  # type: ignore[var-annotated]

    def advance(self, n: int = 1, **info: Any) -> None:
        self.seen += [row["learning"] for row in self.shelf.index()["memories"] if row.get("learning")]


def test_a_running_learn_is_shown_and_leaves_no_log_behind(
    config: Callable[..., RunConfig], tmp_path: Path, one_thread: None
) -> None:
    memory = Memory.create(tmp_path / "desk", config("train.epochs=1", "train.pairs_per_step=4"))
    watching = Watching(tmp_path)
    memory.learn(make_task("bread", train=8, test=2), progress=watching)
    steps = [(line["task"], line["stage"], line["step"], line["steps"]) for line in watching.seen]
    assert ("bread", "preference", 1, 2) in steps and ("bread", "preference", 2, 2) in steps
    assert not list((tmp_path / "desk").rglob(LIVE))
