"""Calls and replies by content, in one SQLite file, so that no reply is paid for twice. Imports no torch.

A try is recorded before it is sent, and its reply before it is used. After a kill at any moment the file still has all
replies, and the number of tries that may have been paid for without a reply.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lifealign.core.errors import JudgeError
from lifealign.core.files import check_regular

_TABLE = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    reply TEXT,
    sent INTEGER NOT NULL
) WITHOUT ROWID"""


@dataclass(frozen=True)
class Known:
    """The cache's entry for a call.

    Attributes:
        reply: body of the successful response; None if there was none yet.
        unanswered: tries that may have been paid for and brought no reply (time-outs, broken connections, kills).
    """

    reply: str | None
    unanswered: int


class CallCache:
    """The file, open; see `open_cache`. Every change is on the disk when its method returns."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def get(self, keys: Iterable[str]) -> dict[str, Known]:
        """The entries of these calls; calls never sent are left out."""
        found = {}
        for key in keys:
            row = self._database.execute("SELECT reply, sent FROM calls WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[key] = Known(row[0], row[1] - (row[0] is not None))
        return found

    def sending(self, key: str, request: Any) -> None:
        """Record a try before it is sent. An earlier reply stays until there is a new one."""
        with self._database as database:
            database.execute(
                "INSERT INTO calls VALUES (?, ?, NULL, 1) ON CONFLICT(key) DO UPDATE SET sent = sent + 1",
                (key, json.dumps(request, ensure_ascii=False)),
            )

    def refused(self, key: str) -> None:
        """Take back the last try, which the server answered with an error, so it is not paid for."""
        with self._database as database:
            database.execute("UPDATE calls SET sent = sent - 1 WHERE key = ?", (key,))

    def replied(self, key: str, reply: str) -> None:
        """Store the reply to the last try."""
        with self._database as database:
            database.execute("UPDATE calls SET reply = ? WHERE key = ?", (reply, key))


@contextmanager
def open_cache(path: Path) -> Iterator[CallCache]:
    """Open the file, or create it, for one process at a time (two would pay for the same calls).

    Raises:
        JudgeError: another process has it open, or it is not a cache.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        check_regular(path, JudgeError)
    lock = FileLock(f"{path}.lock", timeout=0)
    try:
        with lock, closing(sqlite3.connect(path, timeout=60)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(_TABLE)
            yield CallCache(database)
    except Timeout:
        raise JudgeError(f"{path}: another process is judging with this cache; wait, or give another --cache") from None
    except sqlite3.Error as error:
        raise JudgeError(f"{path}: cannot use this cache of calls: {error}; give another --cache") from error
