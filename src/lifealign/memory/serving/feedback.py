"""Thumbs on answers: a file of lines that only grows, in TRL's unpaired layout. No torch.

A vote is acknowledged when its line is on the disk. A line that a killed server left half written was not acknowledged;
it is cut off when the file is opened again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lifealign.core.errors import ConfigError
from lifealign.core.files import fsync_directory, writing
from lifealign.memory.serving.errors import ApiError

REMEMBERED = 10_000
"""Newest responses that can be voted on."""
SECONDS = 24 * 3600.0
"""... for so long."""


class Vote(BaseModel):
    """`POST /v1/feedback`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str
    """Of the response."""
    label: bool
    """True: thumbs up."""
    choice: int = Field(0, ge=0)
    """Index of the answer, if the response has several."""
    correction: str | None = None
    """A better answer."""
    consent: bool | None = None
    """Whether the person agreed that the conversation is learnt from; None: not asked."""

    @model_validator(mode="after")
    def _with_text(self) -> Vote:
        if self.correction is not None and not self.correction.strip():
            raise ValueError("correction: it has no text; leave it out")
        return self


@dataclass(frozen=True)
class Answered:
    """A response that can be voted on.

    Attributes:
        prompts: of each answer: messages, or the text of a completion.
        answers: texts, by index.
        model: as it was asked for.
        fingerprint: of the weights that answered.
        created: seconds since the epoch.
    """

    prompts: Sequence[Sequence[Mapping[str, str]] | str]
    answers: Sequence[str]
    model: str
    fingerprint: str
    created: float


class Feedback:
    """Votes on the newest responses.

    Args:
        path: the file; made if it is missing.

    Attributes:
        votes: number of votes taken since.
        note: a sentence about a line that was cut off; None if none was.

    Raises:
        ConfigError: the path is a directory, or its directory is missing.
        StoreError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise ConfigError(f"--feedback {path}: give a file in a directory that exists")
        self.path, self.votes = path, 0
        self._answered: OrderedDict[str, Answered] = OrderedDict()
        self._lock = threading.Lock()
        with writing(path):
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fsync_directory(path.absolute().parent)
            self.note = self._mend()

    def remember(self, identity: str, answered: Answered) -> None:
        """Let people vote on a response, as long as it is among the newest."""
        with self._lock:
            self._answered[identity] = answered
            oldest = time.time() - SECONDS
            while len(self._answered) > REMEMBERED or next(iter(self._answered.values())).created < oldest:
                self._answered.popitem(last=False)

    def take(self, vote: Vote) -> None:
        """Write a vote to the disk.

        Raises:
            ApiError: 404, no such response; 400, no such answer in it.
            StoreError: the operating system refused the write; the file is as before.
        """
        with self._lock:
            answered = self._answered.get(vote.id)
            if answered is None or answered.created < time.time() - SECONDS:
                raise ApiError(
                    404,
                    f"no response {vote.id[:80]!r} to vote on; the server remembers the newest {REMEMBERED:,} since it was "
                    f"started, for {SECONDS / 3600:g} hours",
                    "id",
                    "response_not_found",
                )
            if vote.choice >= len(answered.answers):
                raise ApiError(400, f"choice: the response has {len(answered.answers)} answer(s)", "choice")
            line = json.dumps(_record(vote, answered), ensure_ascii=False) + "\n"
            with writing(self.path):
                self._append(line.encode())
            self.votes += 1

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _append(self, data: bytes) -> None:
        """One line, whole or not at all."""
        size = os.fstat(self._file).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise

    def _mend(self) -> str | None:
        """Make the file end with a whole line."""
        size = os.fstat(self._file).st_size
        start, tail = size, b""
        while start and b"\n" not in tail:
            step = min(start, 1 << 16)
            start -= step
            tail = os.pread(self._file, step, start) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if not torn:
            return None
        try:
            json.loads(torn)
        except ValueError:
            os.ftruncate(self._file, size - len(torn))
            os.fsync(self._file)
            return f"{self.path}: the last line was cut off in the middle and is left out ({len(torn)} bytes)"
        self._append(b"\n")
        return None


def _record(vote: Vote, answered: Answered) -> dict[str, Any]:
    """A line of the file: a row of TRL's unpaired layout, and where it comes from."""
    prompt, answer = answered.prompts[vote.choice], answered.answers[vote.choice]
    chat = not isinstance(prompt, str)
    given = {"correction": vote.correction, "consent": vote.consent}
    return {
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": answer}] if chat else answer,
        "label": vote.label,
        **{name: value for name, value in given.items() if value is not None},
        "metadata": {
            "id": vote.id,
            "choice": vote.choice,
            "model": answered.model,
            "point": answered.fingerprint,
            "answered": _moment(answered.created),
            "voted": _moment(time.time()),
        },
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
