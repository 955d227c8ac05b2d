"""The page for annotators over HTTP: links, blindness, saving, refusals, and model text that stays text."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `annotate` is not installed")
from fastapi.testclient import TestClient

from lifealign.judging.people.database import Rating, Ratings
from lifealign.judging.people.server import create_app
from lifealign.judging.people.views import visible
from support.people_batch import EVIL, hidden, ratings_of, record, two_methods, write


@pytest.fixture
def ratings(tmp_path: Path) -> Ratings:
    return ratings_of(tmp_path / "r.sqlite", two_methods(4), ["ada", "ben"])


def client_of(ratings: Ratings, name: str | None = "ada", **options: Any) -> TestClient:
    client = TestClient(create_app(ratings, **options), base_url="http://127.0.0.1:8500", follow_redirects=False)
    if name is not None:
        joined = client.get(f"/join/{ratings.annotators()[name]}")
        assert (joined.status_code, joined.headers["location"]) == (303, "/guide")
    return client


def send(client: TestClient, path: str = "/rate", **fields: str) -> Any:
    page = client.get("/").text
    found = {"csrf": hidden(page, "csrf"), **({"position": hidden(page, "position")} if path == "/rate" else {})}
    return client.post(path, data={**found, **fields})


def test_a_rating_by_form_alone(ratings: Ratings) -> None:
    client = client_of(ratings)
    assert "4 to go" in client.get("/guide").text
    answer = send(client, winner="left", comment="  clear  ", flag="1", seconds="2.5")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    ((name, asked, rating, _),) = ratings.held()
    assert (name, asked.position, rating) == ("ada", 0, Rating("left", None, {}, True, "clear", 2.5))
    assert '<progress max="4" value="1"' in client.get("/").text
    assert send(client, unable="1", winner="left").status_code == 303
    assert [(r.winner, r.flag) for _, _, r, _ in ratings.held()] == [("left", True), (None, True)]


def test_undo_brings_back_what_was_said(ratings: Ratings) -> None:
    client = client_of(ratings)
    send(client, winner="tie", comment="why & how")
    assert send(client, "/undo").status_code == 303
    page = client.get("/").text
    assert hidden(page, "position") == "0" and "why &amp; how</textarea>" in page
    assert re.search(r'value="tie" data-keys="[^"]*" class="before"', page)
    assert ratings.held() == []


def test_the_end_says_thanks_and_can_be_undone(ratings: Ratings) -> None:
    client = client_of(ratings)
    for _ in range(4):
        send(client, winner="right")
    page = client.get("/").text
    assert "All 4 done" in page and 'id="rating"' not in page
    send(client, "/undo")
    assert 'id="rating"' in client.get("/").text


def test_nothing_tells_whose_answer_it_is(tmp_path: Path) -> None:
    records = [
        record(
            i, source, f"text {i} {'one' if source == 'secret-method' else 'two'}", gold=None, scores={"pass_rate": 1.0}
        )
        for i in range(6)
        for source in ("secret-method", "other-method")
    ]
    ratings = ratings_of(tmp_path / "r.sqlite", records, gold=3)
    client = client_of(ratings)
    gold = 0
    while (asked := ratings.next("ada")) is not None:
        page = client.get("/").text
        words = ["secret", "other-method", "last", "pass_rate", "myths@", "gold", *(s.id for s in asked.sides)]
        assert [
            word for word in words if word in page.replace("last user turn", "").replace("Take back your last", "")
        ] == []
        # Beside a gold pair the reference would give the result away, and left out there alone, it would tell the gold.
        assert "Reference answer" not in page
        gold += asked.question.gold is not None
        send(client, winner="tie")
    assert gold == 3
    assert "secret" not in client.get("/guide").text


def test_model_text_is_text(tmp_path: Path) -> None:
    evil = [record(0, "ours", EVIL, reference=EVIL), record(0, "theirs", "plain\r\ntext\x00\x1b[31m", reference=EVIL)]
    page = client_of(ratings_of(tmp_path / "r.sqlite", evil)).get("/").text
    assert len(re.findall(r"<script", page)) == 1 and "<img" not in page
    assert page.count("&lt;script&gt;document.title = &#39;evil&#39;&lt;/script&gt;") == 2
    assert (
        "\u202e" not in page and '<span class="unseen">U+202E</span>desrever<span class="unseen">U+202C</span>' in page
    )
    # Marks that right-to-left scripts need stay; line ends are one; control characters are seen.
    assert "\u200fשלום\u200f" in page
    assert 'plain\ntext<span class="unseen">U+0000</span><span class="unseen">U+001B</span>[31m' in page
    shown = re.findall(r'<div class="text" dir="auto">(.*?)</div>', page, re.DOTALL)
    bare = html.unescape(re.sub(r'<span class="unseen">U\+(\w+)</span>', lambda m: chr(int(m[1], 16)), shown[1]))
    assert bare == EVIL


def test_only_a_personal_link_lets_in(ratings: Ratings) -> None:
    client = client_of(ratings, None)
    for path in ("/", "/guide"):
        answer = client.get(path)
        assert answer.status_code == 401 and "personal link" in answer.text
    assert client.post("/rate", data={"winner": "left"}).status_code == 401
    assert client.get("/join/nobody").status_code == 404
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404
    client.cookies.set(f"lifealign-{ratings.name}", "nobody")
    assert client.get("/").status_code == 401


def test_each_rater_sees_their_own(ratings: Ratings) -> None:
    ada, ben = client_of(ratings), client_of(ratings, "ben")
    send(ada, winner="left")
    assert '<progress max="4" value="0"' in ben.get("/").text
    # A form of ada's is no form of ben's.
    page = ada.get("/").text
    fields = {"csrf": hidden(page, "csrf"), "position": "0", "winner": "right"}
    assert ben.post("/rate", data=fields).status_code == 403
    assert ratings.progress("ben") == (0, 4)


@pytest.mark.parametrize(
    ("fields", "headers", "status"),
    [
        ({"csrf": ""}, {}, 403),
        ({"csrf": "0" * 64}, {}, 403),
        ({"csrf": "é"}, {}, 403),
        ({}, {"sec-fetch-site": "cross-site"}, 403),
        ({}, {"sec-fetch-site": "same-site"}, 403),
        ({}, {"host": "evil.example"}, 400),
        ({"position": "9"}, {}, 400),
        ({"position": "x"}, {}, 400),
        ({"winner": "both"}, {}, 400),
        ({"score": "3"}, {}, 400),
        ({"step-mood": "good"}, {}, 400),
        ({"comment": "x" * 4001}, {}, 400),
        ({"comment": "x" * 70_000}, {}, 413),
    ],
)
def test_what_no_page_of_ours_sends_is_refused(
    ratings: Ratings, fields: dict[str, str], headers: dict[str, str], status: int
) -> None:
    client = client_of(ratings)
    page = client.get("/").text
    good = {"csrf": hidden(page, "csrf"), "position": "0", "winner": "left"}
    assert client.post("/rate", data={**good, **fields}, headers=headers).status_code == status
    assert ratings.held() == []
    assert client.post("/rate", data=good, headers={"sec-fetch-site": "same-origin"}).status_code == 303


@pytest.mark.parametrize("charset", ["idna", "undefined", "zlib", "utf-16", '"'])
def test_a_form_has_one_encoding_whatever_it_names(ratings: Ratings, charset: str) -> None:
    client = client_of(ratings)
    good = {"csrf": hidden(client.get("/").text, "csrf"), "position": "0", "winner": "left", "comment": "é"}
    kind = f"application/x-www-form-urlencoded; charset={charset}"
    assert client.post("/rate", data=good, headers={"content-type": kind}).status_code == 303
    assert [rating.comment for _, _, rating, _ in ratings.held()] == ["é"]
    for kind, content, status in (
        (f"multipart/form-data; boundary=x; charset={charset}", b"--x--", 415),
        ("application/x-www-form-urlencoded", b"csrf=%FF", 400),
        ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 50), 400),
    ):
        assert client.post("/rate", content=content, headers={"content-type": kind}).status_code == status


def test_a_megabyte_of_marks_is_shown_in_no_time() -> None:
    started = time.process_time()
    crowd = str(visible("a" + "\u202e" * 1_000_000))
    assert crowd.endswith('<span class="unseen">U+202E</span><span class="unseen">999,960 more</span>')
    assert str(visible("a\u202e" * 100_000)).count("U+202E") == 100_000
    assert time.process_time() - started < 3


def test_a_body_of_unknown_length_is_refused(ratings: Ratings) -> None:
    client = client_of(ratings)
    assert client.post("/rate", content=iter([b"winner=left"])).status_code == 413


def test_headers_keep_the_page_alone(ratings: Ratings) -> None:
    client = client_of(ratings)
    for path in ("/", "/guide", "/nowhere", "/static/people.js"):
        headers = client.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    # Nothing that the policy would refuse.
    page = client.get("/").text
    assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", page)
    cookie = client_of(ratings, None).get(f"/join/{ratings.annotators()['ada']}").headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie


def test_another_name_is_served_only_where_others_may_come(ratings: Ratings) -> None:
    client = client_of(ratings, any_host=True)
    assert client.get("/", headers={"host": "lab.example:8500"}).status_code == 200
    for host, status in (
        ("localhost:1", 200),
        ("[::1]:8500", 200),
        ("rebound.example", 400),
        ("[", 400),
        ("localhost.evil", 400),
    ):
        assert client_of(ratings).get("/", headers={"host": host}).status_code == status


def test_a_full_disk_is_no_saved_rating(ratings: Ratings, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(ratings)
    page = client.get("/").text
    # What SQLite says where a file cannot be written.
    monkeypatch.setattr("lifealign.judging.people.database._write_rating", fail_to_write)
    fields = {"csrf": hidden(page, "csrf"), "position": "0", "winner": "left"}
    answer = client.post("/rate", data=fields)
    assert answer.status_code == 503 and "could not be saved" in answer.text and ratings.held() == []


def fail_to_write(*_: Any, **__: Any) -> None:
    import sqlite3

    raise sqlite3.OperationalError("database or disk is full")


# --- the commands ---


def call(*arguments: str) -> Any:
    from typer.testing import CliRunner

    from lifealign.cli.app import app

    return CliRunner().invoke(app, list(arguments))


def test_commands_from_answers_to_summary(tmp_path: Path) -> None:
    answers, db = write(tmp_path / "a.parquet", two_methods(3)), tmp_path / "r.sqlite"
    made = call("annotate", str(answers), "--db", str(db), "--annotator", "ada", "--prepare", "--json")
    assert made.exit_code == 0, made.output
    document = json.loads(made.stdout)
    assert document["annotators"] == {"ada": {"rated": 0, "assigned": 3}} and document["mode"] == "pairwise"
    assert re.fullmatch(r"http://127\.0\.0\.1:8500/join/[\w-]{32}", document["links"]["ada"])
    again = call("annotate", str(answers), "--db", str(db), "--annotator", "ben", "--prepare", "--json")
    assert json.loads(again.stdout)["links"]["ada"] == document["links"]["ada"]
    assert json.loads(again.stdout)["annotators"]["ben"] == {"rated": 0, "assigned": 3}
    Ratings.open(db).save("ada", 0, Rating("tie"))
    exported = call("ratings", "export", "--db", str(db), "--out", str(tmp_path / "r.jsonl"))
    assert exported.exit_code == 0 and "1 ratings written" in exported.output
    (row,) = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row["winner"] == "tie" and {row["left_by"], row["right_by"]} == {"ours@last", "theirs@last"}
    summed = call("ratings", "summary", "--db", str(db))
    assert summed.exit_code == 0 and "50.0 [50.0, 50.0] of 1 items" in summed.output
    assert (
        json.loads(call("ratings", "summary", "--db", str(db), "--json").stdout)["agreement"]["alpha"]["value"] is None
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "2", "--db", "R"], "--count has no effect without ANSWERS"),
        (["--db", "none.sqlite"], "no such file"),
        (["A", "--db", "R", "--seed", "1"], "holds questions from other answers"),
        (["A", "--db", "R", "--overlap", "0.5"], "holds questions from other answers"),
        (["--db", "R", "--host", "0.0.0.0"], "or allow it with --allow-remote"),
        (["--db", "R", "--allow-remote"], "other machines cannot reach 127.0.0.1"),
        (["--db", "R", "--prepare", "--port", "0"], "--prepare cannot make links for --port 0"),
        (["A", "--db", "new.sqlite", "--mode", "both"], "--mode 'both': allowed: pairwise, absolute"),
        (["A", "--db", "new.sqlite", "--rubric", "poem"], "rubric 'poem': unknown"),
        (["A", "--db", "new.sqlite", "--annotator", "a b"], "letters, digits"),
    ],
)
def test_mistakes_are_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    write(tmp_path / "a.jsonl", two_methods(2))
    ratings_of(tmp_path / "r.sqlite", two_methods(2), ["annotator"])
    names = {"A": str(tmp_path / "a.jsonl"), "R": str(tmp_path / "r.sqlite")}
    full = [names.get(a, str(tmp_path / a) if a.endswith(".sqlite") else a) for a in arguments]
    failed = call("annotate", *full)
    assert failed.exit_code == 2 and message in failed.output, failed.output


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    import socket

    ratings_of(tmp_path / "r.sqlite", two_methods(2))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        failed = call("annotate", "--db", str(tmp_path / "r.sqlite"), "--port", str(port))
    assert (
        failed.exit_code == 2
        and f"--port {port}: cannot listen on this address: Address already in use" in failed.output
    )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and ada's link."""
    ratings_of(tmp_path / "r.sqlite", two_methods(50))
    command = [sys.executable, "-m", "lifealign", "annotate", "--db", str(tmp_path / "r.sqlite"), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stderr
    link = process.stderr.readline().split(" ")[1]
    yield process, link
    process.kill()
    process.wait()


def test_sigkill_loses_no_confirmed_rating(served: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    import httpx

    process, link = served
    confirmed = 0
    with httpx.Client(base_url=link.partition("/join")[0]) as client:
        client.get(link)
        for number in range(20):
            page = client.get("/").text
            fields = {"csrf": hidden(page, "csrf"), "position": hidden(page, "position"), "winner": "left"}
            if number == 19:
                process.send_signal(signal.SIGKILL)
            try:
                confirmed += client.post("/rate", data=fields).status_code == 303
            except httpx.TransportError:
                break
    assert confirmed >= 19
    # The last one may have been kept without an answer; never the other way round.
    assert Ratings.open(tmp_path / "r.sqlite").progress("ada")[0] in (confirmed, confirmed + 1)


def test_a_signal_ends_with_what_was_rated(served: tuple[subprocess.Popen[str], str]) -> None:
    import httpx

    process, link = served
    # An answer says that the server has put its own handler in place.
    assert httpx.get(link.partition("/join")[0] + "/guide").status_code == 401
    process.send_signal(signal.SIGHUP)  # uvicorn alone would not know it
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (129, "ada: 0 of 50 rated") and "Traceback" not in err


def test_the_overview_is_for_whoever_serves_and_does_not_say_who_wins(tmp_path: Path) -> None:
    ratings = ratings_of(tmp_path / "r.sqlite", two_methods(4), ["ada", "ben"], gold=1)
    ada = client_of(ratings, overview="for-me")
    for _ in range(3):
        send(ada, winner="left", seconds="4")
    page = ada.get("/overview/for-me").text
    assert "3 of 10 rated" in page and "3 of 5" in page and "0 of 5" in page and "4 s" in page
    assert "Agreement of people: no item was rated by two people." in page
    assert not any(word in page for word in ("ours", "theirs", "win_rate", "Bradley"))
    assert ada.get("/overview/another").status_code == 404
    assert client_of(ratings).get("/overview/None").status_code == 404, "not served unless it was asked for"
    ben = client_of(ratings, "ben")
    while (asked := ratings.next("ben")) is not None:
        send(ben, winner="right")
        assert asked
    assert re.search(r"Agreement of people on \d items: Krippendorff", ada.get("/overview/for-me").text)


def test_a_guide_in_pairs_is_folded_and_without_scores(tmp_path: Path) -> None:
    two = [*two_methods(2), *two_methods(2, ["see-a-professional"])]
    pairs = client_of(ratings_of(tmp_path / "p.sqlite", two)).get("/guide").text
    assert pairs.count('<details class="rubric">') == 2 and 'class="anchors"' not in pairs
    scores = client_of(ratings_of(tmp_path / "s.sqlite", two_methods(2), mode="absolute")).get("/guide").text
    assert scores.count('<details class="rubric" open>') == 1 and 'class="anchors"' in scores


def test_a_pair_asks_one_question_and_says_which_answer_was_cut(tmp_path: Path) -> None:
    cut = [record(0, "ours", "so much", finish="length"), record(0, "theirs", "whole", finish="stop")]
    page = client_of(ratings_of(tmp_path / "r.sqlite", cut)).get("/").text
    assert re.findall(r"<h1>(.*?)</h1>", page) == ["Which answer is better?"] and page.count("Cut off here") == 1
    assert page.index("What to look at") < page.index("Does the answer")
