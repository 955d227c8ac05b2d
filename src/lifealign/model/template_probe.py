"""Try a chat template in a process of its own, which can be stopped. A template is a program of others."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifealign.core.errors import ModelError
from lifealign.core.limits import SHOWN
from lifealign.model.checkpoint import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 5
"""Processor time for all `PROBES`; a template takes a millisecond."""
WAIT = 30
"""Seconds that the other process may take by the clock."""
MEMORY = 1 << 30
"""Bytes that it may take more than this process."""
_TURNS = [{"role": role, "content": "a"} for role in ("system", "user", "assistant")]
PROBES: tuple[Sequence[dict[str, str]], ...] = (
    _TURNS[1:2],
    _TURNS[1:],
    _TURNS[:2],
    _TURNS,
    [*_TURNS[1:], *_TURNS[1:]],
    [*_TURNS, *_TURNS[1:2]],
)
"""Conversations to render, with and without the prompt of an answer."""


def check_template(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat template that does not end, takes all memory, or renders no conversation at all.

    Raises:
        ModelError: tells which, in the template's own words.
    """
    answer = _elsewhere(tokenizer)
    way = "correct it, or set model.template=plain"
    if answer is None:
        raise ModelError(
            f"base model {name!r}: its chat template does not end within {SECONDS} seconds, or takes more than {MEMORY >> 30} GiB; {way}"
        )
    if len(answer) == 2 * len(PROBES):
        raise ModelError(f"base model {name!r}: its chat template renders no conversation: {answer[0]}; {way}")


def _elsewhere(tokenizer: PreTrainedTokenizerBase) -> list[str] | None:
    """What the template refused, in its words; None: its process had to be stopped."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of threads; the child runs the template alone
        child = os.fork()
    if child == 0:
        _render_and_exit(tokenizer, writer)
    os.close(writer)
    try:
        data = _read_all(reader, time.monotonic() + WAIT)
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return None if data is None or not data.endswith(b"]") else list(json.loads(data))


def _render_and_exit(tokenizer: Any, writer: int) -> None:
    """The child's part. Leaves without the handlers of the parent."""
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        with suppress(OSError, ValueError):  # no /proc outside of Linux: the clock alone limits there
            held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
        refused = []
        for turns in PROBES:
            for generation in (False, True):
                try:
                    tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation)
                except Exception as error:
                    refused.append(one_line(error)[:SHOWN])
        os.write(writer, json.dumps(refused).encode())
    finally:
        os._exit(0)


def _read_all(reader: int, deadline: float) -> bytes | None:
    """What the child wrote until it closed the pipe; None: the time was over."""
    data = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([reader], [], [], left)[0]:
            return None
        chunk = os.read(reader, 65536)
        if not chunk:
            return data
        data += chunk
    return None
