"""People who rate and clients who ask, for minutes, while their servers are killed again and again: nothing confirmed is lost.

    python benchmarks/soak.py [--minutes 10] [--annotators 50] [--clients 20] [--kill-every 30]

Two commands run on loopback: `lifealign annotate` on made-up answers, and `lifealign serve --feedback` on a random tiny model
that has learnt two tasks. Every rating and vote carries a number of its own. Every `--kill-every` seconds one of the two
servers is ended, by SIGKILL or every third time by SIGTERM, and started again on the same port and files. At the end each
confirmed rating must be in the database, and each confirmed vote once in its file; a whole answer must have come for every
request that was not cut off by a kill. Prints a table; the exit code is 1 if anything is lost or a server wrote a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from lifealign.data.answers import AnswerRecord, write_answers
from lifealign.data.tasks import Message
from lifealign.judging.people.database import Ratings

QUESTIONS = 500
PATIENCE = 600.0
"""Seconds in which a server must start, or end in peace."""


@dataclass
class Server:
    """A command that serves, and is killed and started again.

    Attributes:
        words: the command.
        port: on which it listens.
        log: its stderr, of all its lives.
        ends: how it was ended -> how often.
        wrong: what went wrong.
    """

    words: list[str]
    port: int
    log: Path
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = [sys.executable, "-m", "lifealign", *self.words, "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/", timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.2)
        raise RuntimeError(f"{self.words[0]} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def stop(self, number: signal.Signals) -> None:
        """End it by a signal; SIGTERM must end it in peace."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.ends[number.name] += 1
        if code != (-9 if number is signal.SIGKILL else 128 + number):
            self.wrong.append(f"{self.words[0]}: exit code {code} after {number.name}")


@dataclass
class Counts:
    """What the clients saw; shared by their threads.

    Attributes:
        ratings: (annotator, position) -> comment of each confirmed rating.
        votes: corrections of the confirmed votes.
        answers: whole answers.
        cut: connections that a kill broke, or that no server took.
        forgotten: votes on answers that were given before a restart.
        wrong: responses that should not be.
    """

    ratings: dict[tuple[str, int], str] = field(default_factory=dict)
    votes: set[str] = field(default_factory=set)
    answers: int = 0
    cut: int = 0
    forgotten: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def repeat(step: Callable[[], bool], counts: Counts, stop: threading.Event) -> None:
    """Take a step again and again; a connection that breaks is tried again, anything else ends the client."""
    while not stop.is_set():
        try:
            if not step():
                return
        except httpx.TransportError:
            with counts.lock:
                counts.cut += 1
            stop.wait(0.2)
        except Exception as error:
            with counts.lock:
                counts.wrong.append(f"{type(error).__name__}: {error}")
            return


def annotator(base: str, name: str, token: str, counts: Counts, stop: threading.Event) -> None:
    """One person who rates until all is rated."""
    number = 0
    with httpx.Client(base_url=base, timeout=60) as client:
        joined = False

        def step() -> bool:
            nonlocal number, joined
            if not joined:
                joined = client.get(f"/join/{token}").status_code == 303
            page = client.get("/").text
            found = {key: re.search(rf'name="{key}" value="([^"]*)"', page) for key in ("csrf", "position")}
            fields = {key: match[1] for key, match in found.items() if match}
            if "position" not in fields:
                return False  # all is rated
            number += 1
            comment = f"{name} {number}"
            answer = client.post("/rate", data={**fields, "winner": "left", "comment": comment})
            with counts.lock:
                if answer.status_code == 303:
                    counts.ratings[name, int(fields["position"])] = comment
                else:
                    counts.wrong.append(f"rate: HTTP {answer.status_code}")
            return True

        repeat(step, counts, stop)


def asker(base: str, name: str, counts: Counts, stop: threading.Event) -> None:
    """One client who asks and votes on the answer."""
    number = 0
    with httpx.Client(base_url=base, timeout=120) as client:

        def step() -> bool:
            nonlocal number
            number += 1
            turn = {"role": "user", "content": f"bread question {number}?"}
            answer = client.post("/v1/chat/completions", json={"model": "now", "max_tokens": 8, "messages": [turn]})
            if answer.status_code == 503:  # it is stopping
                raise httpx.TransportError("stopping")
            if answer.status_code != 200 or not answer.json()["choices"][0]["finish_reason"]:
                raise RuntimeError(f"chat: HTTP {answer.status_code}: {answer.text[:200]}")
            with counts.lock:
                counts.answers += 1
            correction = f"{name} {number}"
            vote = client.post(
                "/v1/feedback", json={"id": answer.json()["id"], "label": False, "correction": correction}
            )
            with counts.lock:
                if vote.status_code == 200:
                    counts.votes.add(correction)
                elif vote.status_code == 404:  # a server remembers its own answers only
                    counts.forgotten += 1
                elif vote.status_code != 503:
                    counts.wrong.append(f"vote: HTTP {vote.status_code}: {vote.text[:200]}")
            return True

        repeat(step, counts, stop)


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def made_up_answers(path: Path) -> None:
    """Two methods' answers to `QUESTIONS` questions."""
    records = [
        AnswerRecord.of("myths", [Message("user", f"question {i}?")], f"{who} {i}", source=who, point="last", stage=1)
        for i in range(QUESTIONS)
        for who in ("ours", "theirs")
    ]
    write_answers(path, records)


def tiny_memory(directory: Path) -> Path:
    """A random tiny model that has learnt two tasks."""
    from lifealign.testing import learn, save_tiny_model, start, tiny_config, tiny_task

    config = tiny_config(save_tiny_model(directory / "model"), directory / "memory")
    session, store = start(config)
    learn(session, store, tiny_task("bread"), tiny_task("stars"))
    return directory / "memory"


def lost(counts: Counts, db: Path, votes: Path) -> tuple[list[str], list[str]]:
    """Confirmed ratings and votes that are not on the disk as they were sent."""
    kept = {(who, asked.position): rating.comment for who, asked, rating, _ in Ratings.open(db).held()}
    ratings = [f"{who} {at}" for (who, at), comment in counts.ratings.items() if kept.get((who, at)) != comment]
    lines = votes.read_text(encoding="utf-8").splitlines() if votes.exists() else []
    found = Counter(json.loads(line)["correction"] for line in lines)
    return ratings, [correction for correction in counts.votes if found[correction] != 1]


def disturb(servers: list[Server], every: float, seconds: float) -> None:
    """End one of the servers after another, and start it again, until the time is up."""
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() + every < end:
        time.sleep(every)
        server = servers[turn % len(servers)]
        server.stop(signal.SIGTERM if turn % 3 == 2 else signal.SIGKILL)
        server.start()
        turn += 1
    time.sleep(max(0.0, end - time.monotonic()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--annotators", type=int, default=50)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--kill-every", type=float, default=30.0, metavar="SECONDS")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.environ["LIFEALIGN_CACHE"] = str(directory / "cache")
        made_up_answers(directory / "answers.jsonl")
        names = [f"person-{i}" for i in range(given.annotators)]
        db, votes, log = directory / "ratings.sqlite", directory / "votes.jsonl", directory / "log.txt"
        people = [word for who in names for word in ("--annotator", who)]
        rated = Server(["annotate", str(directory / "answers.jsonl"), "--db", str(db), *people], free_port(), log)
        served = Server(["serve", str(tiny_memory(directory)), "--feedback", str(votes)], free_port(), log)
        counts, stop = Counts(), threading.Event()
        try:
            for server in (rated, served):
                server.start()
            threads = [
                threading.Thread(target=annotator, args=(f"http://127.0.0.1:{rated.port}", who, token, counts, stop))
                for who, token in Ratings.open(db).annotators().items()
            ]
            threads += [
                threading.Thread(target=asker, args=(f"http://127.0.0.1:{served.port}", f"client-{i}", counts, stop))
                for i in range(given.clients)
            ]
            for thread in threads:
                thread.start()
            disturb([rated, served], given.kill_every, given.minutes * 60)
            stop.set()
            for thread in threads:
                thread.join()
            for server in (rated, served):
                server.stop(signal.SIGTERM)
        finally:
            stop.set()
            for server in (rated, served):
                if server.process is not None:
                    server.process.kill()
        missing = lost(counts, db, votes)
        tracebacks = log.read_text(errors="replace").count("Traceback (most recent call last)")
    return report(given, [rated, served], counts, missing, tracebacks)


def report(
    given: argparse.Namespace,
    servers: list[Server],
    counts: Counts,
    missing: tuple[list[str], list[str]],
    tracebacks: int,
) -> int:
    """Print the table; returns the exit code."""
    wrong = [*counts.wrong, *(text for server in servers for text in server.wrong)]
    print(f"{given.minutes:g} minutes, {given.annotators} annotators, {given.clients} clients")
    for server in servers:
        print(f"{server.words[0] + ' ended by':<24}" + ", ".join(f"{n} {name}" for name, n in server.ends.items()))
    rows = [
        ("ratings confirmed", len(counts.ratings), len(missing[0])),
        ("votes confirmed", len(counts.votes), len(missing[1])),
    ]
    print(f"{'':<24}{'number':>8}{'lost':>8}")
    for label, number, gone in rows:
        print(f"{label:<24}{number:>8}{gone:>8}")
    print(f"{'whole answers':<24}{counts.answers:>8}")
    print(f"{'broken connections':<24}{counts.cut:>8}")
    print(f"{'votes too late':<24}{counts.forgotten:>8}")
    print(f"{'tracebacks':<24}{tracebacks:>8}")
    print(f"{'other mistakes':<24}{len(wrong):>8}")
    for text in [*missing[0], *missing[1], *wrong][:20]:
        print(f"  {text}")
    done = counts.ratings and counts.votes
    return 0 if done and not (missing[0] or missing[1] or wrong or tracebacks) else 1


if __name__ == "__main__":
    sys.exit(main())
