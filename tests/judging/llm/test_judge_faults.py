"""A thousand calls to a server that fails in every way: each ends scored or unscored with its reason, nothing is paid twice.

The faults are drawn with a seed, so what has to come out is known before: the test counts the plan, not the program.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lifealign.data.answers import AnswerRecord, write_answers
from lifealign.data.tasks import Message
from lifealign.judging.llm.config import JudgeConfig, read_judge_config
from lifealign.judging.llm.engine import judge_answers
from lifealign.judging.llm.judgements import read_judgements
from lifealign.judging.llm.summary import summarise
from support.judge_server import FAULTS, PAID_FAULTS, JudgeServer, material, reply, serving

CALLS = 1000
TRANSIENT = {"429": "http_error", "500": "http_error", "slow": "timeout", "cut": "cut"}
"""Faults without a completion -> the reason where they do not go away."""


def records(count: int) -> list[AnswerRecord]:
    return [
        AnswerRecord.of(
            "myths",
            (Message("user", f"Is it true, no. {i}?"),),
            f"No, {i}.",
            source="x",
            point="now",
            stage=1,
            reference="No.",
        )
        for i in range(count)
    ]


def number(request: dict[str, Any]) -> int:
    return int(material(request, "answer")[len("No, ") : -1])


def faults(count: int, share: float = 0.2) -> dict[int, tuple[str, int]]:
    """Item -> (fault, how often it comes before a good reply: 1, or always)."""
    rng = random.Random(5)
    chosen = rng.sample(range(count), round(share * count))
    found = {}
    for i, item in enumerate(chosen):
        fault = FAULTS[i % len(FAULTS)]
        # Time-outs cost seconds, so that few of them stay.
        lasting = rng.random() < (0.1 if fault == "slow" else 0.4)
        found[item] = (fault, 99 if lasting or fault in (*PAID_FAULTS, "bad_response") else 1)
    return found


def config(server: JudgeServer, **more: Any) -> JudgeConfig:
    judge = {"url": server.url, "model": "m", "price_in": 10.0, "price_out": 30.0}
    return read_judge_config(None, {"judges": [judge], "concurrency": 16, "timeout": 4.0, "tries": 2, **more})


def test_every_item_of_a_thousand_ends_scored_or_with_its_reason(tmp_path: Path) -> None:
    plan = faults(CALLS)
    assert len(plan) == 200

    def judge(request: dict[str, Any], before: int) -> Any:
        fault, times = plan.get(number(request), ("", 0))
        return fault if before < times else reply(1 + number(request) % 10)

    with serving(judge) as server:
        found, totals = judge_answers(config(server), records(CALLS), tmp_path / "c.sqlite")
        asked, paid, most, tokens = server.asked.copy(), server.paid.copy(), server.most, list(server.tokens)

    expected: list[str | None] = []
    for item in range(CALLS):
        fault, times = plan.get(item, ("", 0))
        stays = times > 1
        expected.append((TRANSIENT.get(fault) or fault) if stays else None)
    assert [one.unscored for one in found] == expected
    assert [one.score for one in found] == [None if e else 1 + i % 10 for i, e in enumerate(expected)]

    summary = summarise(found)
    assert summary.scored + sum(summary.unscored.values()) == CALLS
    assert Counter(summary.unscored) == Counter(e for e in expected if e)
    assert len(summary.unscored) == 9, "every kind of fault stayed at least once"

    slow = sum(fault == "slow" for fault, _ in plan.values())
    assert totals.tries == sum(asked.values())
    # What the server sent after the client had given up was paid, but never seen.
    seen = [one for one in found if one.unscored not in ("http_error", "timeout", "cut", "bad_response")]
    assert totals.prompt_tokens == 100 * len(seen) == sum(one.prompt_tokens or 0 for one in found)
    assert tokens[0] - totals.prompt_tokens <= 100 * 2 * slow
    assert totals.cost is None, "a broken reply carries no token count, so the sum is not known"
    assert totals.uncounted == summary.unscored["bad_response"]
    assert sum(one.cost for one in found if one.cost) == pytest.approx(len(seen) * (100 * 10 + 20 * 30) / 1e6)
    timeouts = {item for item, (fault, _) in plan.items() if fault in ("slow", "cut")}
    assert totals.unanswered == sum(2 if plan[item][1] > 1 else 1 for item in timeouts)
    assert max(paid.values()) <= 2
    assert 1 < most <= 16


def test_a_second_run_asks_only_what_brought_no_reply(tmp_path: Path) -> None:
    plan = faults(100)
    healthy = False

    def judge(request: dict[str, Any], before: int) -> Any:
        fault, times = plan.get(number(request), ("", 0))
        return fault if not healthy and before < times else reply()

    with serving(judge) as server:
        settings = config(server, tries=1)
        first, _ = judge_answers(settings, records(100), tmp_path / "c.sqlite")
        before = sum(server.asked.values())
        healthy = True
        second, totals = judge_answers(settings, records(100), tmp_path / "c.sqlite")
        unanswered = {i for i, one in enumerate(first) if one.unscored in ("http_error", "timeout", "cut")}
        assert len(unanswered) == 8
        assert sum(server.asked.values()) - before == totals.tries == 8
    assert {i for i, one in enumerate(first) if one != second[i]} == unanswered
    assert all(second[i].score == 7 for i in unanswered)


COMMAND = [sys.executable, "-m", "lifealign", "judge"]


@pytest.mark.parametrize("kills", [3])
def test_killed_and_called_again_pays_for_nothing_twice(tmp_path: Path, kills: int) -> None:
    """SIGKILL in the middle, three times. What the killed process had received is never asked again; what was on its way (at
    most one call a worker) is, and is counted as possibly paid."""
    count, workers = 240, 4
    write_answers(tmp_path / "answers.jsonl", records(count))

    def judge(request: dict[str, Any], before: int) -> Any:
        time.sleep(0.01)
        return "bad_json" if number(request) % 10 == 0 else reply(1 + number(request) % 10)

    with serving(judge) as server:
        arguments = [tmp_path / "answers.jsonl", "--judge", server.url, "--model", "m", "--out", tmp_path / "j.jsonl"]
        arguments += [
            "--cache",
            tmp_path / "c.sqlite",
            "--concurrency",
            workers,
            "--price-in",
            10,
            "--price-out",
            30,
            "--json",
        ]
        call = [*COMMAND, *map(str, arguments)]
        kept: list[set[int]] = []  # items whose reply the killed process had written down
        asked_before: list[int] = []
        for kill in range(kills):
            process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for(lambda goal=40 * (kill + 1): sum(server.paid.values()) >= goal)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert not (tmp_path / "j.jsonl").exists(), "a part of a file would look like the whole"
            kept.append(stored(tmp_path / "c.sqlite"))
            asked_before.append(len(server.requests))
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        asked = [number(request) for request in server.requests]
    assert kept[0] < kept[1] < kept[2], "a run goes on where the killed one was"
    for known, start in zip(kept, asked_before, strict=True):
        # A request that was on its way at the kill may arrive just after it was counted.
        assert set(asked[start + workers :]) & known == set()
    document = json.loads(done.stdout)
    totals = document["totals"]
    assert totals["known"] == len(kept[-1]) >= kills * (40 - workers)
    assert totals["tries"] == totals["replies"] == count - totals["known"]
    # Written down before it is sent: no request that reached the server is missing from the count.
    assert len(asked) - count <= totals["unanswered"] <= kills * workers
    assert totals["unanswered_cost"] > 0 or totals["unanswered"] == 0

    found = read_judgements(tmp_path / "j.jsonl")
    assert [one.score for one in found] == [None if i % 10 == 0 else 1 + i % 10 for i in range(count)]
    assert document["unscored"] == {"bad_json": count // 10}
    assert (totals["prompt_tokens"], totals["completion_tokens"]) == (100 * count, 20 * count)
    assert (
        totals["cost"]
        == pytest.approx(count * (100 * 10 + 20 * 30) / 1e6)
        == pytest.approx(sum(o.cost or 0 for o in found))
    )


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def stored(path: Path) -> set[int]:
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT request FROM calls WHERE reply IS NOT NULL").fetchall()
    return {number(json.loads(text)) for (text,) in rows}
