"""llama.cpp's server from the wheel xllamacpp, in a process of its own, and what it answers."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_SERVER = """
import sys, time, xllamacpp
settings = xllamacpp.CommonParams()
settings.port, settings.model.path = 0, sys.argv[1]
settings.n_ctx, settings.n_parallel, settings.warmup = 2048, 1, False
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
if len(sys.argv) > 2:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = sys.argv[2], 1.0
    settings.lora_adapters = [adapter]
server = xllamacpp.Server(settings)
print("listening", server.listening_address, flush=True)
time.sleep(3600)
"""


def need_llamacpp() -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
    pytest.importorskip("gguf", reason="the package gguf is not installed: pip install gguf")


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        address: http://host:port
    """

    address: str

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """At most `count` new ids; an end is left out."""
        reply = self.post(
            "/completion",
            {
                "prompt": list(prompt),
                "n_predict": count,
                "temperature": 0,
                "return_tokens": True,
                "cache_prompt": False,
            },
        )
        return [int(i) for i in reply["tokens"]]

    def tokens(self, text: str) -> list[int]:
        reply = self.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})
        return [int(i) for i in reply["tokens"]]

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The ids of a conversation by the file's own template."""
        return self.tokens(self.post("/apply-template", {"messages": list(messages)})["prompt"])


@contextmanager
def serving(model: Path, adapter: Path | None = None) -> Iterator[Server]:
    command = [sys.executable, "-c", _SERVER, str(model), *([str(adapter)] if adapter else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("listening "):
                    break
            else:
                raise AssertionError(f"llama.cpp did not start: {process.stderr.read()[-2000:]}")  # type: ignore[union-attr]
            yield Server(line.split()[1])
        finally:
            process.kill()
