"""A real server on a tiny memory, in a thread of the test, and OpenAI's own client."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import uvicorn

from lifealign.core.addresses import listen
from lifealign.core.progress import NullProgress
from lifealign.memory.serving.app import create_app
from lifealign.memory.serving.exchange import Service
from lifealign.memory.serving.points import Points, Required
from lifealign.memory.serving.run import Request, opened


@dataclass
class Served:
    """A server that runs: its address, its parts, and what it said."""

    url: str
    service: Service
    said: list[str]

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


@contextmanager
def serving(
    memory: Path, *, only: Sequence[str] = (), required: Required | None = None, key: str | None = None, **options: Any
) -> Iterator[Served]:
    """Serve a memory; options are those of `run.Request`."""
    said: list[str] = []
    points = Points(memory, only, required, said.append)
    with opened(Request(memory, **options), points, key, NullProgress()) as service:
        config = uvicorn.Config(create_app(service), log_level="warning", access_log=False, lifespan="off")
        server, socket = uvicorn.Server(config), listen("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{socket.getsockname()[1]}", service, said)
        finally:
            server.should_exit = True
            thread.join()
            socket.close()


def ask(client: openai.OpenAI, text: str, model: str = "now", **options: Any) -> Any:
    """A greedy answer to one user turn."""
    options = {"temperature": 0, "max_tokens": 24} | options
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)


def text_of(response: Any) -> str:
    content = response.choices[0].message.content
    assert isinstance(content, str)
    return content
